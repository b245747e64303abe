"""Which score of a VAE detects other classes best, and where does the likelihood prefer the anomalies?"""

import math
from functools import partial
from statistics import mean

import numpy as np
import torch

from pyrovae import VAE, anomaly, data, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OF_TESTS, Findings, Line, Number, Table, with_test_error
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {"latents": 8, "epochs": 30, "epochs_of_all": 20, "batch_size": 32},
    "mnist": {"latents": 32, "epochs": 20, "epochs_of_all": 15, "batch_size": 128},
}
TRAIN, TEST, PARTICLES = 12000, 5000, 20  # at most so many images without the ones; test images; z for each
# All classes share their test images: the error of a mean over classes is at most the mean of their errors.
ERROR = f"{OF_TESTS}; of a mean over classes, with the mean of their errors, which is the most that it can be"
LEARNED = partial(Normal, scale=0.3, learn="one")
CAPTION = (
    "AUROC of -log p(x) as an anomaly score. For each of the first ten bars a VAE was trained on one digit class, "
    "and the other nine are the anomalies. For the last bar it was trained on all digits but the ones, and the ones "
    "are the anomalies. Below 0.5 an anomaly looks more normal than the training data."
)
NOTES = (
    "A VAE of one class against the other nine classes, averaged over the ten classes.",
    "A VAE of all digits but the ones, against the ones. The last score uses no VAE: it is the size of the image as "
    "a PNG file. Bars and sorted images are those of -log p(x).",
)


def experiment(name, seeds):
    budget, greys, binary = BUDGETS[name], data.load(name, binarize="none"), data.load(name)
    y = subset(greys.test, TEST).y
    classes, ones = [], []
    for seed in range(seeds):
        classes.append(one_class(greys, budget, seed))
        ones.append(without_ones(binary, budget, seed))
    by_class = {
        score: [{each: told_apart(costs[score], y == each) for each, costs in one.items()} for one in classes]
        for score in classes[0][0]
    }
    by_score = {score: [told_apart(one[score], y != 1) for one in ones] for score in ones[0]}
    bars = {str(each): found for each, found in by_class["-log p(x)"][0].items()}
    figures = {
        "auroc": plots.auroc_bars(bars | {"all\nbut 1": by_score["-log p(x)"][0]}, "normal: classes trained on"),
        "images-by-surprise": extremes(subset(greys.test, TEST)[:].numpy(), y.numpy(), classes[0]),
        "roc-of-the-ones": plots.roc_curves({k: (s[y != 1].numpy(), s[y == 1].numpy()) for k, s in ones[0].items()}),
    }
    lines, tables = answer(by_class, by_score, [one["-log p(x)"] for one in ones], y)
    return Findings(lines, tables, figures, error=ERROR)


def trained(x, latents, likelihood, seed, epochs, batch_size):
    torch.manual_seed(seed)
    vae = VAE(x.shape[1:], latents, likelihood=likelihood)
    fit(vae, x, epochs=epochs, batch_size=batch_size, learning_rate=2e-3, lr_schedule=cosine, seed=seed)
    return vae


def one_class(splits, budget, seed):
    """For each class four scores of the test images, by a VAE of that class alone."""
    found = {}
    for each in range(splits.num_classes):
        own, held_out = (split[split.y == each] for split in (splits.train, splits.valid))
        vae = trained(own, budget["latents"], LEARNED, seed, budget["epochs"], budget["batch_size"])
        rows, _ = scores(vae, subset(splits.test, TEST)[:], PARTICLES, 0)  # all scores of the same draws of z
        costs = {"-log p(x)": -rows["log_likelihood"], "-ELBO": -rows["elbo"], "distortion": -rows["reconstruction"]}
        typical = anomaly.surprisal(vae, held_out, PARTICLES).mean()
        found[each] = costs | {"atypicality": (costs["-log p(x)"] - typical).abs()}
        print(
            f"class {each}, seed {seed}: {told_apart(costs['-log p(x)'], subset(splits.test, TEST).y == each)}",
            flush=True,
        )
    return found


def without_ones(splits, budget, seed):
    """Scores of the test images by a VAE of all digits but the ones, which are the simplest."""
    x, held_out = (split[(split.y != 1).nonzero()[:TRAIN, 0]] for split in (splits.train, splits.valid))
    options = budget["latents"], Bernoulli, seed, budget["epochs_of_all"], budget["batch_size"]
    vae, background = trained(x, *options), trained(anomaly.mutated(x, levels=2, seed=seed), *options)
    test = subset(splits.test, TEST)[:]
    return {
        "-log p(x)": anomaly.surprisal(vae, test, PARTICLES),
        "atypicality": anomaly.atypicality(vae, test, held_out, PARTICLES),
        "background ratio": anomaly.background_ratio(vae, test, background, PARTICLES),
        "complexity ratio": anomaly.complexity_ratio(vae, test, particles=PARTICLES),
        "a short PNG": -math.log(2) * torch.tensor([anomaly.png(each) for each in test]).double(),
    }


def told_apart(costs, normal):
    return anomaly.auroc(costs[normal[: len(costs)]], costs[~normal[: len(costs)]])


def extremes(x, y, found):
    """A row for each class: test images in the order of their -log p(x), as a VAE of that class has it."""
    panels = {"class: least strange": [], "class: strangest": [], "others: least strange": [], "others: strangest": []}
    for each, costs in found.items():
        order = costs["-log p(x)"].argsort().numpy()
        own, others = order[y[order] == each], order[y[order] != each]
        for panel, rows in zip(panels.values(), (own[:5], own[-5:], others[:5], others[-5:]), strict=True):
            panel.append(x[rows])
    return plots.image_table({title: np.stack(rows) for title, rows in panels.items()})


def answer(by_class, by_score, costs, y):
    """by_class: for each score, for each seed, the AUROC of each class; by_score: the same of the ones."""
    classes = {
        score: with_test_error([over(seed, "value") for seed in of], [over(seed, "standard_error") for seed in of])
        for score, of in by_class.items()
    }
    ones = {
        score: with_test_error([one["value"] for one in of], [one["standard_error"] for one in of])
        for score, of in by_score.items()
    }
    of_rows = {score: Number(mean(one["standard_error"] for one in of), None, 3) for score, of in by_score.items()}
    single, nats = by_class["-log p(x)"], torch.stack(costs).mean(0)
    rates = {f"class {label}": Number(mean(one[label]["value"] for one in single), None, 3) for label in single[0]}
    worst = min(rates, key=rates.get)
    simple = {"ones": nats[y == 1], "other digits": nats[y != 1]}
    lines = [
        Line("AUROC of -log p(x)", {"mean of ten classes": classes["-log p(x)"], "ones": ones["-log p(x)"]}),
        Line("Lowest AUROC of a class", {worst: rates[worst]}),
        Line(
            "-log p(x) without ones in training, nats",
            {kind: Number(of.mean().item(), None, 1) for kind, of in simple.items()},
        ),
    ]
    first = Table(["score", "AUROC, mean of the classes"], [*classes.items()])
    heads = ["score", "AUROC of the ones", "standard error of the rows"]
    return lines, [first, Table(heads, [[score, ones[score], of_rows[score]] for score in ones])]


def over(seed, key):
    """The mean over the classes."""
    return mean(one[key] for one in seed.values())
