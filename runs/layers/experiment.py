"""What a second stochastic layer is worth, in nats, with either guide and beside one layer of as many weights."""

from functools import partial
from statistics import mean

import torch
from torch import nn

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.evaluate import scores
from pyrovae.experiments import Findings, spread, table
from pyrovae.models import HierarchicalVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.train import cosine

BUDGETS = {
    "digits": {"hidden": (64, 32), "latents": (16, 8), "activation": nn.LeakyReLU, "epochs": 100, "batch_size": 32},
    "mnist": {"hidden": (200, 100), "latents": (100, 50), "activation": nn.Tanh, "epochs": 50, "batch_size": 200},
}
ROWS, PARTICLES = 2000, 500  # of the test images, and of z for each


def experiment(name, seeds):
    budget = BUDGETS[name]
    splits = data.load(name, valid=0)
    test = splits.test[:ROWS]
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
            pictures.setdefault(kind, vae.sample(40).numpy())
            if kind == "two layers, top-down":
                layered = varied(vae)
    return Findings(told(found), {"layers": plots.image_table(layered), "samples": plots.image_grids(pictures)})


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
        "one layer, wider": partial(VAE, shape, second, encoder=wider, decoder=wider),
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


def told(found):
    base = [each["log p(x)"] for each in found["one layer"]]
    rows = []
    for kind, each in found.items():
        gain = [(one["log p(x)"] - other).mean().item() for one, other in zip(each, base, strict=True)]
        rows.append(
            [
                kind,
                f"{each[0]['weights']:,}",
                spread([-one["log p(x)"].mean().item() for one in each]),
                spread([-one["elbo"]["value"] for one in each]),
                spread(gain),
                ", ".join(f"{site} {kl['value']:.1f}" for site, kl in sorted(each[0]["kl_by_site"].items())),
                ", ".join(f"{site} {count}" for site, count in sorted(each[0]["active_units"].items())),
            ]
        )
    heads = ["", "weights", "-log p(x)", "-ELBO", "gain, same images", "KL", "active units"]
    best = min(found, key=lambda kind: -mean(one["log p(x)"].mean().item() for one in found[kind]))
    wider = mean((one["log p(x)"] - other).mean().item() for one, other in zip(found[best], alike(found), strict=True))
    return (
        f"Best is {best}, by {wider:.2f} nats beside one layer of as many weights. Nats per datum of at most "
        f"{ROWS} test images, {PARTICLES} importance samples.\n\n" + table(heads, rows)
    )


def alike(found):
    return [each["log p(x)"] for each in found["one layer, wider"]]
