"""How noisy are pathwise and score-function gradients of the encoder, and what does a softplus scale change?"""

import math
from functools import partial
from itertools import product
from statistics import mean

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import TraceGraph_ELBO
from torch.nn import functional as F  # noqa: N812

from pyrovae import SVI, VAE, Training, TrainingError, data, plots
from pyrovae.data import subset
from pyrovae.evaluation import gradients
from pyrovae.experiments import OVER_SEEDS, Findings, Line, Number, Table, spread
from pyrovae.guides import DiagonalNormal
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.objectives.objective import Objective
from pyrovae.randomness import seeded

BUDGETS = {
    "digits": {"hidden": (64,), "latents": 4, "stages": (1, 30, 900), "draws": 100, "epochs": 20},
    "mnist": {"hidden": (200,), "latents": 20, "stages": (1, 10, 100, 1000, 3000), "draws": 300, "epochs": 4},
}
BATCH, ROWS, BURN_IN = 100, 1000, 50
RATES = (1e-3, 3e-4)  # of which each estimator has the better; at the first the gradients are measured
ERRORS = f"of a variance its standard error over the draws, else {OVER_SEEDS}"
PATHWISE, REFERENCE, PATH = "pathwise", "pathwise, KL in closed form", "path derivative"
SCORE, BASELINE = "score function", "score function, baseline"


class Softplus(DiagonalNormal):
    """q(z|h) = Normal(z; m, diag(softplus(v))^2), with h = (m, v)."""

    def forward(self, h):
        mean, v = h.unflatten(-1, (2, *self.latent_shape)).unbind(-len(self.latent_shape) - 1)
        return dist.Normal(mean, F.softplus(v)).to_event(len(self.latent_shape))


FAMILIES = {"log-variance": DiagonalNormal, "softplus": Softplus}
CASES = [(1.0, 1e-3), (1.0, 1e-2), (1.0, 1e-1), (0.0, 1e-2)]  # beta and learning rate; without its KL a scale shrinks
CAPTION = (
    "The variance of several estimators of the encoder's gradient, while a VAE is trained; and, for comparison, the "
    "squared length of the gradient itself."
)
NOTES = (
    "The variance is summed over the encoder's parameters, relative to that of the pathwise estimator. It comes from"
    " the draws of z alone, for {batch} images, in a training with the KL in closed form at rate {rate:g}. -ELBO, in"
    ' nats per datum, is that of a training with the estimator itself, after {steps} steps of Adam. "-ELBO rose" '
    "names the rates at which it was higher at the end than at the beginning. The better rate is the one whose "
    "training ends lower on training images. The baseline is a decaying average.",
    "z compares the component along the gradient with that of the estimator with the KL in closed form. All "
    "estimators should have the same mean: then one |z| in 22 is above 2, and the rms of z over all parameters is 1.",
    "The scale of q(z|x) is exp(v/2) (log-variance) or softplus(v) of the encoder's output v, for greys under a "
    "normal likelihood with a learned scale. A training failed if a loss or a gradient was not finite. -ELBO, at the"
    " end, is that of a density.",
)


def experiment(name, seeds):
    budget, splits, greys = BUDGETS[name], data.load(name, valid=0), data.load(name, binarize="none", valid=0)
    noise, tried, scales = [], [], []
    for seed in range(seeds):
        tried.append({kind: {} for kind in estimators(built(splits, budget, seed))})
        for kind, rate in product(tried[-1], RATES):
            tried[-1][kind][rate] = looked_at(splits, kind, rate, budget, seed)
        noise.append(tried[-1][REFERENCE][RATES[0]]["noise"])
        scales.append({(*case, way): scaled(greys, way, *case, budget, seed) for case in CASES for way in FAMILIES})
    settings = {"batch": BATCH, "rate": RATES[0], "steps": budget["stages"][-1]}
    return Findings(*answer(noise, tried, scales), pictures(noise, tried, scales), settings, ERRORS)


def looked_at(splits, kind, rate, budget, seed):
    """A training by one estimator: test losses at some of its steps, on training images the last; of one the noise.

    That is how noisy all estimators are at its stages, in the training by the reference at the first rate.
    """
    losses, noise = {}, {}
    for step, vae in trainings(splits, kind, rate, budget, seed):
        if step in marks(budget["stages"][-1]):
            losses[step] = loss(vae, subset(splits.test, ROWS)[:])
        if (kind, rate) == (REFERENCE, RATES[0]) and step in budget["stages"]:
            noise[step] = measured(vae, splits.train[:BATCH], budget["draws"], (seed, step))
    print(f"{kind}, rate {rate}, seed {seed}: {losses[step]:.2f} nats", flush=True)
    return {"losses": losses, "train": loss(vae, subset(splits.train, ROWS)[:]), "noise": noise}


def estimators(vae):
    """By name the objective and the guide whose gradient has the mean of all others'."""
    return {
        PATHWISE: (ELBO(), vae.guide),
        REFERENCE: (ELBO(estimator="analytic"), vae.guide),
        PATH: (ELBO(estimator="path-derivative"), vae.guide),
        SCORE: (ELBO(), without_path(vae)),
        BASELINE: (TraceGraph_ELBO(), without_path(vae)),
    }


def without_path(vae):
    """The guide whose z are constants to autograd: Pyro then takes E[(log p - log q) d log q], less a baseline."""

    def guide(x):
        q = vae.q_z(x).base_dist
        with pyro.plate("data", len(x)):
            z = NonreparameterizedNormal(q.loc, q.scale).to_event(1)
            return pyro.sample("z", z, infer={"baseline": {"use_decaying_avg_baseline": True}})

    return guide


def built(splits, budget, seed, likelihood=None, guide=DiagonalNormal):
    torch.manual_seed(seed)
    network = partial(MLP, hidden=budget["hidden"])
    parts = {} if likelihood is None else {"likelihood": likelihood}
    return VAE(splits.event_shape, budget["latents"], guide=guide, encoder=network, decoder=network, **parts)


def trainings(splits, kind, rate, budget, seed):
    """A VAE trained by one estimator, and the number of steps, after each of them."""
    vae = built(splits, budget, seed)
    pyro.clear_param_store()  # of the last one's baseline
    objective, guide = estimators(vae)[kind]
    graph = "auto" if isinstance(objective, Objective) else False  # a baseline is a side effect
    svi = SVI(vae.model, guide, partial(torch.optim.Adam, lr=rate), objective, compile=graph)
    for step in range(1, budget["stages"][-1] + 1):
        svi.step(splits.train[torch.randint(len(splits.train), (BATCH,))])
        yield step, vae


def marks(last, count=14):
    """Steps at which a training is looked at, the same number in every decade."""
    return {round(last ** (number / count)) for number in range(count + 1)}


def loss(vae, x):
    """-ELBO, nats per datum, with the same noise each time."""
    with seeded(0):
        return ELBO(estimator="analytic").loss(vae.model, vae.guide, x)


def measured(vae, x, draws, seed):
    """By estimator: the variance of the encoder's gradient, and how far its mean is from that of the reference."""
    with seeded(*seed):
        towards = drawn(vae, REFERENCE, x, draws).mean(0)
        found, reference = {}, drawn(vae, REFERENCE, x, draws)
        for kind in estimators(vae):
            g = reference if kind == REFERENCE else drawn(vae, kind, x, draws)
            signal = (towards @ g.mean(0)).item()  # of two independent means: that of the squared gradient
            found[kind] = gradients.variance(g) | gradients.difference(g, reference, towards) | {"signal": signal}
    return found


def drawn(vae, kind, x, draws):
    """Gradients of -ELBO, nats per datum, on the same images in any order: a baseline has an average for each place."""
    pyro.clear_param_store()
    objective, guide = estimators(vae)[kind]
    inputs = ((x[torch.randperm(len(x))],) for _ in range(BURN_IN + draws))
    found = gradients.gradients(objective, (vae.model, guide), vae.encoder.parameters(), inputs)[BURN_IN:]
    return found if isinstance(objective, Objective) else found / len(x)


def scaled(greys, way, beta, rate, budget, seed):
    """A training with the scale told one way: losses, the smallest scale of a test image, and whether it failed."""
    vae = built(greys, budget, seed, partial(Normal, scale=0.3, learn="one"), FAMILIES[way])
    options = {"epochs": budget["epochs"], "batch_size": BATCH, "learning_rate": rate, "seed": seed}
    training, test = (
        Training(vae, greys.train, objective=ELBO(beta, "analytic"), **options),
        subset(greys.test, ROWS)[:],
    )
    found = {"steps": [], "losses": [], "smallest": math.inf, "failed": False}
    try:
        for _ in training:
            found["steps"].append(training.step)
            found["losses"].append(loss(vae, test))
            with torch.no_grad():
                found["smallest"] = min(found["smallest"], vae.q_z(test).base_dist.scale.min().item())
    except TrainingError:
        found["failed"] = True
    print(f"{way}, beta {beta}, rate {rate}, seed {seed}: {found}", flush=True)
    return found


def variance(noise, kind, step):
    """The mean over seeds, and its standard error over the draws."""
    each = [one[step][kind] for one in noise]
    return mean(one["value"] for one in each), math.hypot(*(one["standard_error"] for one in each)) / len(each)


def ratio(noise, kind, step):
    """Variance of an estimator beside that of the pathwise one, with its error."""
    (above, error), (below, other) = variance(noise, kind, step), variance(noise, PATHWISE, step)
    if kind == PATHWISE:
        return Number(1.0, None, 0)
    both = above / below * math.hypot(error / above, other / below)
    return Number(above / below, both, max(0, 1 - math.floor(math.log10(both))) if both else 2)


def ending(tried, kind, rate):
    """The last test -ELBO of trainings."""
    losses = [one[kind][rate]["losses"] for one in tried]
    return spread([one[max(losses[0])] for one in losses])


def risen(tried, kind, rate):
    """Whether the mean test -ELBO is higher at the end of the trainings than at their beginning."""
    losses = [one[kind][rate]["losses"] for one in tried]
    return mean(one[max(one)] for one in losses) > mean(one[min(one)] for one in losses)


def answer(noise, tried, scales):
    stages, kinds = list(noise[0]), list(tried[0])
    compared = {kind: ratio(noise, kind, stages[-1]) for kind in kinds if kind != PATHWISE}
    ends = {f"{kind}, rate {rate:g}": ending(tried, kind, rate) for kind, rate in chosen(tried).items()}
    lines = [
        Line(f"Variance after {stages[-1]} steps, relative to the pathwise gradient", compared),
        Line("Test -ELBO at the better rate, nats", ends),
        *agreement(noise, stages, kinds),
    ]
    return lines, [variances(noise, tried, stages), z_table(noise, stages, kinds), scales_table(scales)]


def by_steps(stages):
    return [f"after {step} steps" if step > 1 else "after one step" for step in stages]


def variances(noise, tried, stages):
    heads = ["variance", *by_steps(stages), *(f"-ELBO, rate {rate:g}" for rate in RATES), "-ELBO rose"]
    rows = []
    for kind in tried[0]:
        worse = ", ".join(f"rate {rate:g}" for rate in RATES if risen(tried, kind, rate))
        rows.append([kind, *(ratio(noise, kind, step) for step in stages)])
        rows[-1] += [*(ending(tried, kind, rate) for rate in RATES), worse]
    return Table(heads, rows)


def z_table(noise, stages, kinds):
    others = [kind for kind in kinds if kind != REFERENCE]
    rows = [[kind, *(spread([one[step][kind]["along"] for one in noise], 1) for step in stages)] for kind in others]
    return Table(["z", *by_steps(stages)], rows)


def agreement(noise, stages, kinds):
    """Whether all estimate one gradient."""
    cells = [one[step][kind] for one in noise for step in stages for kind in kinds if kind != REFERENCE]
    z, rms = [abs(cell["along"]) for cell in cells], [cell["rms"] for cell in cells]
    counts = {"all": len(z), "above 2": sum(value > 2 for value in z)}
    yield Line("Differences from the gradient with the KL in closed form", counts)
    yield Line("Largest |z|", {"": Number(max(z), None, 1)})
    yield Line("rms of z over all parameters", {"lowest": Number(min(rms)), "highest": Number(max(rms))})


def scales_table(scales):
    rows = []
    for beta, rate, way in scales[0]:
        trainings = [one[beta, rate, way] for one in scales]
        whole = [one["losses"][-1] for one in trainings if not one["failed"]]
        smallest = min(one["smallest"] for one in trainings)
        rows.append([f"{beta:g}", f"{rate:g}", way, sum(one["failed"] for one in trainings), len(trainings)])
        rows[-1].append(f"{smallest:.2g}" if smallest < math.inf else "")  # it failed in its first epoch
        rows[-1].append(spread(whole) if whole and beta else "")
    return Table(["beta", "rate", "scale by", "failed", "trainings", "smallest scale", "test -ELBO"], rows)


def chosen(tried):
    """For each estimator the rate whose training ends lowest on training images, in the mean of the seeds."""
    return {kind: min(RATES, key=lambda rate: mean(one[kind][rate]["train"] for one in tried)) for kind in tried[0]}


def pictures(noise, tried, scales):
    stages, loss = list(noise[0]), "-ELBO of test images (nats)"
    variances = {
        kind: (stages, *zip(*(variance(noise, kind, step) for step in stages), strict=True)) for kind in tried[0]
    }
    variances["the gradient itself, squared"] = (
        stages,
        [mean(one[step][REFERENCE]["signal"] for one in noise) for step in stages],
    )
    by_way = {
        f"{way}, rate {rate:g}": (first["steps"], first["losses"])
        for (beta, rate, way), first in scales[0].items()
        if beta and first["losses"]
    }
    return {
        "variance": plots.curves(
            variances, "steps of training", "variance of the encoder's gradient", "xy", below=True
        ),
        "training": of_training(tried, loss),
        "scale": plots.curves(by_way, "steps of training", loss, beside=True),
    }


def of_training(tried, name):
    """Losses by estimator at its rate, of which some may diverge: then on a logarithmic axis."""
    lines = {}
    for kind, rate in chosen(tried).items():
        losses = [one[kind][rate]["losses"] for one in tried]
        steps = list(losses[0])
        lines[f"{kind}, rate {rate:g}"] = steps, [mean(one[step] for one in losses) for step in steps]
    values = [value for _, each in lines.values() for value in each]
    log = "xy" if max(values) > 10 * min(values) > 0 else "x"
    return plots.curves(lines, "steps of training", name, log, beside=True)
