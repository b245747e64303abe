"""What a second stochastic layer is worth, in nats, with either guide and beside one layer of as many weights."""

from functools import partial
from statistics import fmean

import torch
from torch import nn

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OVER_BOTH, Findings, repeated, table, with_error
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
    return Findings(told(found), figures | {"samples": plots.image_grids(pictures, 4, 1.7)}, OVER_BOTH)


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


def of_sites(repetitions):
    """The mean over the seeds, site by site."""
    means = {site: fmean(one[site] for one in repetitions) for site in sorted(repetitions[0])}
    return ", ".join(f"{site} {value:.1f}" for site, value in means.items())


def told(found):
    rows = []
    for kind, each in found.items():
        rows.append(
            [
                kind,
                f"{each[0]['weights']:,}",
                with_error([-one["log p(x)"] for one in each]),
                f"{-fmean(one['elbo']['value'] for one in each):.2f}",
                with_error(beside(found, kind, "one layer")),
                of_sites([{site: kl["value"] for site, kl in one["kl_by_site"].items()} for one in each]),
                of_sites([one["active_units"] for one in each]),
            ]
        )
    heads = ["", "weights", "-log p(x)", "-ELBO", "gain, same images", "KL", "active units"]
    two = [kind for kind in found if kind.startswith("two")]
    best = min(two, key=lambda kind: cost(found[kind]))
    return (
        f"At best ({best}) a second layer gains {with_error(beside(found, best, WIDER))} nats of log p(x) beside one "
        f"layer of as many weights. Nats per datum of at most {ROWS} test images, {PARTICLES} importance samples. "
        "All are trained by closed forms of the KL but the bottom-up guide, whose KL is sampled. The first picture has "
        "95 % intervals, and below each name its -log p(x).\n\n" + table(heads, rows)
    )
