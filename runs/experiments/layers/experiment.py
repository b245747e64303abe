"""How many nats does a second layer of latents gain, with either guide, over one layer with as many weights?"""

from functools import partial
from statistics import fmean

import torch
from torch import nn

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OVER_BOTH, Findings, Line, Number, Table, repeated, with_error
from pyrovae.models import HierarchicalVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {"hidden": (64, 32), "latents": (16, 8), "activation": nn.LeakyReLU, "epochs": 100, "batch_size": 32},
    "mnist": {"hidden": (200, 100), "latents": (100, 50), "activation": nn.Tanh, "epochs": 50, "batch_size": 200},
}
ROWS, PARTICLES = 2000, 500  # of the test images, and of z for each
WIDER = "one layer, wider"
CAPTION = (
    "-log p(x) of each model, less that of one layer of latents with as many weights, with 95 % intervals: points on"
    " the left are better. The value below each name is its -log p(x)."
)
NOTES = (
    "Nats per datum on at most {images} test images, {samples} importance samples. The gain is over the first row, "
    "on the same images. All models are trained with closed forms of the KL, except the one with the bottom-up "
    "guide, whose KL is sampled.",
)


def experiment(name, seeds):
    budget = BUDGETS[name]
    splits = data.load(name, valid=0)
    test = subset(splits.test, ROWS)[:]
    found = {kind: [] for kind in models(splits.event_shape, budget)}
    pictures = {}
    for seed in range(seeds):
        for kind, build in models(splits.event_shape, budget).items():
            torch.manual_seed(seed)
            vae = build()
            vae.begin_at_the_mean(splits.train[:])
            train(vae, kind, splits, budget, seed)
            log_p, numbers = scores(vae, test, PARTICLES, 0)[0]["log_likelihood"], evaluate(vae, test, 20)
            weights = sum(each.numel() for each in vae.parameters())
            found[kind].append({"log p(x)": log_p, "weights": weights} | numbers)
            print(f"{kind}, seed {seed}: {log_p.mean():.2f}", flush=True)
            pictures.setdefault(kind, vae.sample(20).numpy())
            if kind == "two layers, top-down" and not seed:
                layered = varied(vae)
    figures = {"gains": compared(found), "layers": plots.image_table(layered)}
    figures["samples"] = plots.image_grids(pictures, 4, 1.7)
    return Findings(*answer(found), figures, {"images": ROWS, "samples": PARTICLES}, OVER_BOTH)


def models(shape, budget):
    """Builders of the models; Burda, Grosse & Salakhutdinov (2016) compare the first with the third."""
    (first, second), (hidden, between) = budget["latents"], budget["hidden"]
    big, wider, small = (
        partial(MLP, hidden=(width, width), activation=budget["activation"])
        for width in (hidden, round(1.2 * hidden), between)
    )
    two = partial(HierarchicalVAE, shape, first, (second,), encoder=big, decoder=big, between=small)
    return {
        "one layer": partial(VAE, shape, second, encoder=big, decoder=big),
        WIDER: partial(VAE, shape, second, encoder=wider, decoder=wider),
        "two layers, bottom-up": partial(two, direction="bottom-up"),
        "two layers, top-down": partial(two, direction="top-down"),
    }


def train(vae, kind, splits, budget, seed):
    steps = budget["epochs"] * -(-len(splits.train) // budget["batch_size"])
    estimator = "sampled" if "bottom-up" in kind else "analytic"
    options = {"learning_rate": 2e-3, "lr_schedule": cosine, "seed": seed}
    objective = ELBO(WarmUp(steps // 5), estimator)
    fit(vae, splits, epochs=budget["epochs"], batch_size=budget["batch_size"], objective=objective, **options)


def varied(vae):
    """Beside each draw of the upper layer what the lower one makes of it: z1 ~ p(z1|z2), five times."""
    with torch.no_grad():
        z2 = vae.p_top().sample((6,))
        first = vae.p_z(1, z2).sample((5,)).transpose(0, 1)
        return {"x given one z2, five draws of z1": vae.p_x(first).mean.numpy()}


def beside(found, kind, other):
    """For each seed by how much log p(x) of one model is above that of another, image by image."""
    return [one["log p(x)"] - its["log p(x)"] for one, its in zip(found[kind], found[other], strict=True)]


def compared(found):
    """-log p(x) of each model, less that of the wider one on the same images: as many weights in one layer."""
    numbers = {}
    for kind, each in found.items():
        name = "\n".join([*kind.split(", "), f"{cost(each):.2f} nats"])
        numbers[name] = repeated(beside(found, WIDER, kind))
    return plots.intervals(numbers, "-log p(x) less that of the wider (nats)", size=(3.6, 0.6))


def cost(repetitions):
    return repeated(-one["log p(x)"] for one in repetitions)["value"]


def answer(found):
    sites = ("z", "z1", "z2")
    heads = ["", "weights", "-log p(x)", "-ELBO", "gain, same images", *(f"KL of {site}" for site in sites)]
    heads += [f"active units of {site}" for site in sites]
    rows = []
    for kind, trainings in found.items():
        kl = [{site: of["value"] for site, of in one["kl_by_site"].items()} for one in trainings]
        rows.append([kind, trainings[0]["weights"], with_error([-one["log p(x)"] for one in trainings])])
        rows[-1].append(Number(-fmean(one["elbo"]["value"] for one in trainings)))
        rows[-1].append(with_error(beside(found, kind, "one layer")))
        rows[-1] += of_sites(kl, sites) + of_sites([one["active_units"] for one in trainings], sites)
    gains = {kind: with_error(beside(found, kind, WIDER)) for kind in found if kind.startswith("two")}
    return [Line("Gain in log p(x) over one layer with as many weights, nats", gains)], [Table(heads, rows)]


def of_sites(trainings, sites):
    """The mean over the seeds, site by site; nothing where a model has no such site."""
    there = trainings[0]
    return [Number(fmean(one[site] for one in trainings), None, 1) if site in there else "" for site in sites]
