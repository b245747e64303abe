"""How many nats do latents gain in completing hidden quadrants, over the same network without them?"""

from functools import partial

import torch

from pyrovae import data, fit, plots
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OVER_BOTH, Findings, Line, Number, Table, with_error
from pyrovae.models import Completion, CompletionVAE
from pyrovae.models.completion_vae import quadrants
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {"hidden": (128, 128), "latents": 16, "epochs": 40, "batch_size": 64},
    "mnist": {"hidden": (500, 500), "latents": 50, "epochs": 4, "batch_size": 200},
}
ROWS, PARTICLES, DRAWS = 2000, 100, 6  # of the test images, of z for each; completions in the pictures
SOHN = {1: 63.91, 2: 44.73, 3: 20.95}
CAPTION = (
    "Digits of which one quadrant is visible: the expected completion of a network without latents, six completions "
    "drawn by the CVAE, and the truth."
)
NOTES = (
    "-log p(u|s) in nats: u are the unseen pixels of a test image and s the seen ones. {images} test images, "
    "{samples} importance samples for the CVAE. Both models were trained for at most {epochs} epochs, and validation"
    " images chose the epoch. The further pictures show two and three visible quadrants. Numbers of Sohn, Lee & Yan "
    "(2015), where they are given, are quoted from memory; their training was longer.",
)


def experiment(name, seeds):
    budget = BUDGETS[name]
    splits = data.load(name)
    test = splits.test[:: max(1, len(splits.test) // ROWS)]
    shown = splits.test[[splits.test.y.tolist().index(digit) for digit in range(10)]]
    found, figures = {}, {}
    for seen in (1, 2, 3):
        for seed in range(seeds):
            both = {}
            for kind, build in models(splits.event_shape, seen, budget).items():
                torch.manual_seed(seed)
                both[kind] = model = build()
                train(model, kind, splits, budget, seed)
                numbers = scores(model, test, PARTICLES if kind == "CVAE" else 1, 0)[0]
                found.setdefault((seen, kind), []).append(-torch.stack([numbers["log_likelihood"], numbers["elbo"]]))
                print(f"{seen} seen, {kind}, seed {seed}: {found[seen, kind][-1][0].mean():.2f}", flush=True)
            figures.setdefault(f"seen-{seen}", both)
    pictures = {name: completed(*both.values(), shown) for name, both in figures.items()}
    settings = {"images": len(test), "samples": PARTICLES, "epochs": budget["epochs"]}
    return Findings(*answer(found, name), pictures, settings, OVER_BOTH)


def models(shape, seen, budget):
    mask, network = partial(quadrants, seen=seen), partial(MLP, hidden=budget["hidden"])
    parts = {"encoder": network, "decoder": network, "prior_network": network}
    return {
        "network": partial(Completion, shape, mask, network=network),
        "CVAE": partial(CompletionVAE, shape, budget["latents"], mask, **parts),
    }


def train(model, kind, splits, budget, seed):
    objective = ELBO(estimator="analytic" if kind == "CVAE" else "sampled")
    length = {"epochs": budget["epochs"], "patience": budget["epochs"], "batch_size": budget["batch_size"]}
    fit(model, splits, objective=objective, learning_rate=2e-3, lr_schedule=cosine, seed=seed, **length)


def completed(network, cvae, x):
    """What each expects of the unseen part: the network one thing, the CVAE another for each z ~ p(z|s)."""
    torch.manual_seed(0)
    with torch.no_grad():
        s = network.seen(x)
        expected = network.p_x(s).mean
        means = torch.stack([cvae.p_x(cvae.p_z(s).sample(), s).mean for _ in range(DRAWS)], 1)
    grey = torch.where(cvae.likelihood.mask, x, 0.5)
    draws = "CVAE: $E[x|z, s]$ for draws $z \\sim p(z|s)$"
    panels = {"seen": grey[:, None], "network": expected[:, None], draws: means, "truth": x[:, None]}
    return plots.image_table(panels, across=4)


def answer(found, name):
    rows, gains = [], {}
    for seen in SOHN:
        (network, _), (cvae, bound) = (torch.stack(found[seen, kind], 1) for kind in ("network", "CVAE"))
        gains[f"{seen} of 4 quadrants"] = gain = with_error(network - cvae)
        published = [Number(SOHN[seen])] if name == "mnist" else []
        rows.append([seen, *map(with_error, (network, cvae, bound)), gain, *published])
    heads = ["quadrants seen", "network", "CVAE", "CVAE, -ELBO", "gain"] + ["Sohn et al. 2015"] * (name == "mnist")
    return [Line("Gain of the latents in -log p(u|s), nats", gains)], [Table(heads, rows)]
