"""How noisy is the encoder's gradient by the path and by the score, and what does a scale by softplus change?"""

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
from pyrovae.experiments import OVER_SEEDS, Findings, spread, table
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


def experiment(name, seeds):
    budget, splits, greys = BUDGETS[name], data.load(name, valid=0), data.load(name, binarize="none", valid=0)
    noise, tried, scales = [], [], []
    for seed in range(seeds):
        tried.append({kind: {} for kind in estimators(built(splits, budget, seed))})
        for kind, rate in product(tried[-1], RATES):
            tried[-1][kind][rate] = looked_at(splits, kind, rate, budget, seed)
        noise.append(tried[-1][REFERENCE][RATES[0]]["noise"])
        scales.append({(*case, way): scaled(greys, way, *case, budget, seed) for case in CASES for way in FAMILIES})
    return Findings("\n\n".join([told(noise, tried), of_scales(scales)]), pictures(noise, tried, scales), ERRORS)


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
    each = above / below * (math.hypot(error / above, other / below) if kind != PATHWISE else 0)
    digits = max(0, 1 - math.floor(math.log10(each))) if each else 0
    return f"{above / below:,.{digits}f}" + (f" ± {each:.{digits}f}" if each else "")


def chosen(tried):
    """For each estimator the rate whose training ends lowest on training images, in the mean of the seeds."""
    return {kind: min(RATES, key=lambda rate: mean(one[kind][rate]["train"] for one in tried)) for kind in tried[0]}


def ending(tried, kind, rate):
    """The last test -ELBO of trainings, and whether it has risen."""
    losses = [one[kind][rate]["losses"] for one in tried]
    first, last = min(losses[0]), max(losses[0])
    risen = mean(one[last] for one in losses) > mean(one[first] for one in losses)
    return spread([one[last] for one in losses]) + (", worse than at its beginning" if risen else "")


def told(noise, tried):
    stages, kinds, rates = list(noise[0]), list(tried[0]), chosen(tried)
    last, others = stages[-1], [kind for kind in kinds if kind != REFERENCE]
    z = [abs(one[step][kind]["along"]) for one in noise for step in stages for kind in others]
    rms = [one[step][kind]["rms"] for one in noise for step in stages for kind in others]
    ends = {kind: [ending(tried, kind, rate) for rate in RATES] for kind in kinds}
    end = {kind: f"{ends[kind][RATES.index(rate)]} (rate {rate:g})" for kind, rate in rates.items()}
    rows = [[kind, *(ratio(noise, kind, step) for step in stages), *ends[kind]] for kind in kinds]
    of = [[kind, *(spread([one[step][kind]["along"] for one in noise], 1) for step in stages)] for kind in others]
    by_steps = [f"after {step} steps" if step > 1 else "after one step" for step in stages]
    return "\n\n".join(
        [
            f"After {last} steps the encoder's gradient by the score function has {ratio(noise, SCORE, last)} times "
            "the variance of that by the path, with a decaying average as its baseline "
            f"{ratio(noise, BASELINE, last)} times; with the KL in closed form it is {ratio(noise, REFERENCE, last)} "
            f"times, by the path derivative {ratio(noise, PATH, last)} times. As many steps of training by Adam, at "
            f"that of {len(RATES)} rates which ends lower on training images, lead to a test -ELBO in nats by the "
            f"path of {end[PATHWISE]}, by the score function of {end[SCORE]}, with its baseline of {end[BASELINE]}. "
            f"All should estimate one gradient: of {len(z)} differences from that with the KL in closed form, along "
            f"the gradient, {sum(each > 2 for each in z)} are above 2 standard errors (of equal means one in 22 is), "
            f"and the largest is {max(z):.1f}; the rms of z over all parameters is between {min(rms):.2f} and "
            f"{max(rms):.2f}, where equal means give 1.",
            f"Variance summed over the encoder's parameters, as a multiple of the pathwise one's: by the draws "
            f"of z alone, for {BATCH} images, in a training with the KL in closed form at rate "
            f"{RATES[0]:g}. -ELBO, in nats per datum: after {last} steps of a training of its own.",
            table(["variance", *by_steps, *(f"-ELBO, rate {rate:g}" for rate in RATES)], rows),
            "z of the mean's part along the gradient, beside that with the KL in closed form (one for all):",
            table(["z", *by_steps], of),
        ]
    )


def of_scales(scales):
    rows = []
    for beta, rate, way in scales[0]:
        each = [one[beta, rate, way] for one in scales]
        whole = [one["losses"][-1] for one in each if not one["failed"]]
        smallest = min(one["smallest"] for one in each)
        failed = f"{sum(one['failed'] for one in each)} of {len(each)}"
        reached = f"{smallest:.2g}" if smallest < math.inf else ""  # it failed in its first epoch
        rows.append([f"{beta:g}", f"{rate:g}", way, failed, reached, spread(whole) if whole and beta else ""])
    by_way = {way: [one[key] for one in scales for key in one if key[-1] == way] for way in FAMILIES}
    found = [
        f"{sum(one['failed'] for one in each)} of {len(each)} trainings by {way} failed, the smallest scale of any is "
        f"{min(one['smallest'] for one in each):.2g}"
        for way, each in by_way.items()
    ]
    return (
        "The scale of q(z|x) as exp(v/2) (log-variance) or as softplus(v) of the encoder's output v, for greys under a "
        f"normal of learned scale: {'; '.join(found)}. Failed: a loss or a gradient was not finite. -ELBO is that of a "
        "density, at the end.\n\n" + table(["beta", "rate", "scale by", "failed", "smallest scale", "test -ELBO"], rows)
    )


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
