"""Which score of a VAE tells one class from the others, and where does the likelihood alone prefer the anomaly?"""

import math
from functools import partial
from statistics import mean, stdev

import numpy as np
import torch

from pyrovae import VAE, anomaly, data, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OF_TESTS, Findings, table, with_test_error
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
    return Findings(told(by_class, by_score, [one["-log p(x)"] for one in ones], y), figures, ERROR)


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


def told(by_class, by_score, costs, y):
    """by_class: for each score, for each seed, the AUROC of each class; by_score: the same of the ones."""
    classes = {
        score: [mean(one["value"] for one in seed.values()) for seed in each] for score, each in by_class.items()
    }
    ones = {score: [one["value"] for one in each] for score, each in by_score.items()}
    errors = {score: mean(one["standard_error"] for one in each) for score, each in by_score.items()}
    of_classes = {
        score: with_test_error(
            classes[score], [mean(one["standard_error"] for one in seed.values()) for seed in by_class[score]]
        )
        for score in classes
    }
    of_ones = {
        score: with_test_error(ones[score], [one["standard_error"] for one in each]) for score, each in by_score.items()
    }
    (least, best), (_, keenest) = ends(classes), ends(ones)
    surprisal, single = torch.stack(costs).mean(0), by_class["-log p(x)"]
    rates = {each: mean(one[each]["value"] for one in single) for each in single[0]}
    worst = min(rates, key=rates.get)
    return (
        f"One class, trained on, is told from the other nine by -log p(x) with a mean AUROC of "
        f"{of_classes['-log p(x)']}; where all digits but the ones are trained on, the ones are told from them "
        f"with {of_ones['-log p(x)']}, {verdict(ones['-log p(x)'], errors['-log p(x)'])}: one of them costs "
        f"{surprisal[y == 1].mean():.1f} nats, one of the others {surprisal[y != 1].mean():.1f}. Of the single classes "
        f"{worst} has least, {rates[worst]:.3f}. There {best} is, in the mean, the best of the scores, "
        f"{mean(classes[best]):.3f}, and {least} the worst, {mean(classes[least]):.3f}; for the ones {keenest} is "
        f"best, {mean(ones[keenest]):.3f}. Bars and sorted images are of -log p(x).\n\n"
        + table(["score", "AUROC, mean of the classes"], [*map(list, of_classes.items())])
        + "\n\n"
        + table(
            ["score", "AUROC of the ones", "standard error of the rows"],
            [[score, each, f"{errors[score]:.3f}"] for score, each in of_ones.items()],
        )
    )


def ends(found):
    """The scores with the least and the most in the mean."""
    return min(found, key=lambda score: mean(found[score])), max(found, key=lambda score: mean(found[score]))


def verdict(values, error):
    """error: that over the rows; to it comes that over the seeds."""
    over_seeds = stdev(values) / len(values) ** 0.5 if values[1:] else 0
    if abs(mean(values) - 0.5) <= 2 * math.hypot(error, over_seeds):
        return "within two errors of guessing"
    return "better than guessing" if mean(values) > 0.5 else "worse than guessing"
