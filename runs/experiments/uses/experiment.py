"""What can you use a VAE for? Densities, anomalies, classes from few labels and completion, in one number each."""

import math
from functools import partial

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier

from pyrovae import VAE, anomaly, baselines, data, fit, plots
from pyrovae.data import Split, subset
from pyrovae.evaluation.evaluate import accuracy
from pyrovae.experiments import OF_TESTS, OVER_BOTH, Findings, Line, Number, Table, rate, with_error, with_test_error
from pyrovae.likelihoods import Normal
from pyrovae.models import CompletionVAE, SemiSupervisedVAE
from pyrovae.models.completion_vae import quadrants
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.programs.importance import classify
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {"latents": 8, "hidden": 200, "epochs": 80, "batch_size": 64, "components": 30, "labels": 50},
    "mnist": {"latents": 20, "hidden": 400, "epochs": 12, "batch_size": 200, "components": 100, "labels": 100},
}
ROWS, PARTICLES, FEW = 1000, 200, 300  # test images, z for each; images at which the windows' width is chosen
HALF = partial(quadrants, seen=2)
ERRORS = f"of AUROC and accuracy {OF_TESTS}; else {OVER_BOTH}"
CAPTION = "Test images, images drawn by a VAE, and images drawn by three simple densities."
NOTES = (
    "Black-and-white images. All densities see one draw of each in training. log p of the three simple densities "
    "(`pyrovae.baselines`) is exact: a mixture of {components} products of Bernoullis by expectation maximisation, "
    "one product around each training image, and independent pixels. That of the VAE is estimated with {samples} "
    "importance samples, a lower bound in the mean.\n\n"
    "- Density: [`VAE`](../../../../pyrovae/models/vae.py). [`runs/compare`](../../../compare/README.md) compares "
    "priors and guides.\n\n"
    "- Anomalies: the same VAE, by -log p(x); the anomalies are test images upside down. "
    "[`anomaly`](../../anomaly/experiment.py) shows where the raw likelihood fails.\n\n"
    "- Labels: a [`SemiSupervisedVAE`](../../../../pyrovae/models/semi_supervised_vae.py) of the VAE's codes, the "
    "means of q(z|x), with {labels} labels, beside a network of the labelled images alone; see "
    "[`labels`](../../labels/experiment.py).\n\n"
    "- Completion: a [`CompletionVAE`](../../../../pyrovae/models/completion_vae.py) of the right half u given the "
    "left half s. For the simple densities p(u|s) = p(x) / p(s). See [`completion`](../../completion/experiment.py).",
)


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name)
    torch.manual_seed(0)
    x, test = splits.train[:], subset(splits.test, ROWS)
    train = Split(x, splits.train.y)  # one draw of black and white for all: fresh ones are data that a mixture lacks
    alone = {"Parzen windows": baselines.windows(x, splits.valid[:FEW]), "pixels alone": baselines.pixels(x)}
    found, figures = [], {}
    for seed in range(seeds):
        simple = {"mixture of Bernoullis": baselines.mixture(x, budget["components"], seed=seed)} | alone
        vae = trained(partial(VAE, splits.event_shape, budget["latents"]), train, budget, seed)
        half = trained(partial(CompletionVAE, splits.event_shape, budget["latents"], HALF), train, budget, seed)
        surprise = surprises(vae, simple, test.x)
        semi, classes = labelled(vae, splits, test, budget, seed)
        completed = completions(half, simple, test.x)
        found.append({"surprise": surprise, "classes": classes, "completed": completed})
        print(
            f"seed {seed}: { ({kind: each.mean().item() for kind, each in completed.items()}) } {classes}", flush=True
        )
        figures = figures or {
            "density": plots.image_table(drawn(vae, simple, test.x)),
            "anomalies": plots.image_rows(extremes(test.x, *surprise["VAE"])),
            "labels": plots.image_table(by_class(semi, codes(vae, test.x), test)),
            "completion": plots.image_table(halves(half, test)),
        }
    settings = {"components": budget["components"], "labels": budget["labels"], "samples": PARTICLES}
    return Findings(*answer(found, splits.event_shape), figures, settings, ERRORS)


def trained(build, train, budget, seed):
    torch.manual_seed(seed)
    network = partial(MLP, hidden=budget["hidden"])
    vae = build(encoder=network, decoder=network)
    steps = budget["epochs"] * -(-len(train) // budget["batch_size"])
    options = {"epochs": budget["epochs"], "batch_size": budget["batch_size"], "lr_schedule": cosine, "seed": seed}
    fit(vae, train, learning_rate=2e-3, objective=ELBO(WarmUp(steps // 5)), **options)
    return vae


def surprises(vae, simple, x):
    """-log p of test images, and of the same upside down: by importance samples of the VAE, else exact."""
    both = x, x.flip(-1, -2)
    exact = {kind: tuple(-each.log_prob(images) for images in both) for kind, each in simple.items()}
    return {"VAE": tuple(anomaly.surprisal(vae, images, PARTICLES) for images in both)} | exact


def completions(vae, simple, x):
    """-log p(u|s) of the right half u of each image, given the left one."""
    seen = HALF(x.shape[1:])
    exact = {kind: each.marginal(seen).log_prob(x[:, seen]) - each.log_prob(x) for kind, each in simple.items()}
    return {"VAE": anomaly.surprisal(vae, x, PARTICLES)} | exact


@torch.no_grad()
def codes(vae, x):
    return vae.q_z(x).mean


def labelled(vae, splits, test, budget, seed):
    """With few labels: a semi-supervised VAE of all images' codes E[z|x], and a network of the labelled images."""
    few, net = data.with_labels(splits, budget["labels"], seed).train, partial(MLP, hidden=(300,))
    of_codes = Split(codes(vae, few[:]), few.y)
    torch.manual_seed(seed)
    likelihood = partial(Normal, learn="one")
    semi = SemiSupervisedVAE(
        of_codes.event_shape, 3, 10, likelihood=likelihood, encoder=net, decoder=net, classifier=net
    )
    options = {"batch_size": budget["batch_size"], "labelled_batch_size": budget["batch_size"] // 20, "seed": seed}
    fit(semi, of_codes, epochs=budget["epochs"], learning_rate=2e-3, lr_schedule=cosine, **options)
    there = few.y >= 0
    alone = MLPClassifier((300,), max_iter=1000, random_state=seed)
    alone.fit(few[there.nonzero()[:, 0]].flatten(1).numpy(), few.y[there].numpy())
    rate = accuracy(semi, Split(codes(vae, test.x), test.y))["accuracy"]["value"]
    return semi, {"VAE": rate, "network": float(alone.score(test.x.flatten(1).numpy(), test.y.numpy()))}


def drawn(vae, simple, x):
    """Draws x ~ p(x), black and white as the data are."""
    torch.manual_seed(0)
    grids = {"test images": x[:24], "VAE": vae.sample(24)} | {kind: each.sample(24) for kind, each in simple.items()}
    return {kind: each.unflatten(0, (6, 4)).numpy() for kind, each in grids.items()}


def extremes(x, upright, turned, n=10):
    """Test images as they are and upside down, by their -log p: the first and the last of each."""
    rows = {}
    for name, images, costs in (("", x, upright), ("upside down: ", x.flip(-1, -2), turned)):
        order = costs.argsort()
        rows |= {f"{name}least strange": images[order[:n]].numpy(), f"{name}strangest": images[order[-n:]].numpy()}
    return rows


def by_class(semi, z, test, right=12, wrong=6):
    """A row for each class: test images that are rightly told to be of it, and wrongly; white where none are left."""
    told = classify(semi, z).argmax(1)
    chosen = [(told == each) & ((test.y == each) == good) for good in (True, False) for each in range(10)]
    rows = [test.x[rows.nonzero()[:, 0]] for rows in chosen]
    panels = [[filled(each, n) for each in part] for part, n in ((rows[:10], right), (rows[10:], wrong))]
    return {"told rightly": np.stack(panels[0]), "told wrongly": np.stack(panels[1])}


def filled(x, n):
    return np.concatenate([x[:n].numpy(), np.ones((max(0, n - len(x)), *x.shape[1:]), dtype=np.float32)])


@torch.no_grad()
def halves(vae, test, draws=9):
    """What is seen of a digit of each class, what the rest may be, E[x|z, s] for draws z ~ p(z|s), and what it is."""
    torch.manual_seed(0)
    x = test.x[[test.y.tolist().index(digit) for digit in range(10)]]
    s = vae.seen(x)
    means = torch.stack([vae.p_x(vae.p_z(s).sample(), s).mean for _ in range(draws)], 1)
    grey = torch.where(vae.likelihood.mask, x, 0.5)
    return {"seen": grey[:, None].numpy(), "completed": means.numpy(), "truth": x[:, None].numpy()}


def answer(found, shape):
    kinds, size = list(found[0]["surprise"]), math.prod(shape)
    n = len(found[0]["surprise"][kinds[0]][0])  # test images: digits has fewer than ROWS
    costs = {kind: [one["surprise"][kind][0] for one in found] for kind in kinds}
    areas = {kind: [anomaly.auroc(*one["surprise"][kind]) for one in found] for kind in kinds}
    auroc = {
        kind: with_test_error([one["value"] for one in of], [one["standard_error"] for one in of])
        for kind, of in areas.items()
    }
    nats = {kind: with_error(costs[kind]) for kind in kinds}
    rates = {kind: rate([one["classes"][kind] for one in found], n) for kind in ("VAE", "network")}
    rows = [
        ["density: -log p(x), nats", *nats.values()],
        ["the same, bits for each pixel", *(Number(nats[kind].value / size / math.log(2), None, 3) for kind in kinds)],
        ["anomalies: AUROC of images upside down", *auroc.values()],
        ["completion: -log p(u|s), nats", *(with_error([one["completed"][kind] for one in found]) for kind in kinds)],
    ]
    labels = {"VAE's codes": rates["VAE"], "images with labels alone": rates["network"]}
    return [Line("-log p(x), nats", nats), Line("Accuracy with few labels", labels)], [Table(["", *kinds], rows)]
