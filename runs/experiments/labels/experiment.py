"""How accurate are classifiers with few labels and many images: M1, M2 and both, beside the labels alone?"""

from functools import partial
from statistics import mean

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import nn

from pyrovae import VAE, data, fit, plots
from pyrovae.evaluation.evaluate import accuracy, active
from pyrovae.experiments import Findings, Line, Table, rate, rate_error
from pyrovae.likelihoods import Normal
from pyrovae.models import SemiSupervisedVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, SemiSupervised
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {"labels": (20, 200), "hidden": 64, "latents": 8, "M1": 40, "M2": 10, "M1 + M2": 20, "batch": 50},
    "mnist": {"labels": (100, 3000), "hidden": 500, "latents": 50, "M1": 20, "M2": 3, "M1 + M2": 15, "batch": 200},
}
PUBLISHED = {
    ("classifier alone", 100): ".771",
    ("classifier alone", 3000): ".911",
    ("M1", 100): ".882",
    ("M2, y drawn", 100): ".201",
    ("M2, y drawn", 3000): ".198",
    ("M2, no label term", 100): ".225",
    ("M2, no label term", 3000): ".893",
    ("M2", 100): ".932",
    ("M2", 3000): ".958",
    ("M1 + M2", 100): ".967",
    ("M1 + M2", 3000): ".978",
}
CONTROLS = {"M2, y drawn": ELBO(estimator="sampled"), "M2, no label term": ELBO(estimator="enumerated")}
CAPTION = (
    "Accuracy on test images with few labels and with more: a classifier of the labelled images alone, the models "
    "M1, M2 and M1 + M2, which also use the unlabelled images, and two controls of M2."
)
NOTES = (
    "The mean over {draws} draws of the labels, one draw for the controls. M1 is a classifier of codes, the means of"
    " q(z|x) of one VAE. The classifier alone sees one black-and-white draw of its images, M2 a new one in each "
    'epoch. Controls of M2: "y drawn" draws y where an image has no label instead of summing it out; "no label term"'
    " leaves out log q(y|x) where it has one. Epochs: M1 {M1}, M2 {M2}, M1 + M2 {both}. Published numbers, where "
    "they are given, are from Kingma et al. (2014), those of M2 and its controls from Pyro's tutorial; they had "
    "hundreds to thousands of epochs.",
)


def experiment(name, seeds):
    budget = BUDGETS[name]
    splits = data.load(name, valid=0)
    codes, told = encoded(splits, budget), data.Split(splits.test[:], splits.test.y)
    rates = {}
    for count in budget["labels"]:
        for seed in range(seeds):
            few = data.with_labels(splits, count, seed).train
            of_codes = data.Split(codes[0], few.y)
            found = {
                "classifier alone": network(few, told, budget),
                "M1": logistic(of_codes, data.Split(codes[1], told.y)),
                "M2": m2(few, told, budget, SemiSupervised(), seed),
                "M1 + M2": m1_m2(of_codes, data.Split(codes[1], told.y), budget, seed),
            }
            if seed == 0:
                found |= {way: m2(few, told, budget, objective, seed) for way, objective in CONTROLS.items()}
            for way, accurate in found.items():
                rates.setdefault(way, {}).setdefault(count, []).append(accurate)
            print(f"{count} labels, draw {seed}: {found}", flush=True)
    dots = {
        f"{count} labels": {way: (mean(of[count]), rate_error(of[count], len(told))) for way, of in rates.items()}
        for count in budget["labels"]
    }
    return Findings(
        *answer(rates, budget["labels"], name, len(told)),
        {"accuracy": plots.rows_of_dots(dots, "accuracy")},
        {"draws": seeds, "M1": budget["M1"], "M2": budget["M2"], "both": budget["M1 + M2"]},
        "the root of the squared standard deviation over draws of the labels, and M2's seed with them, and of the "
        "squared standard error of the test set",
    )


def encoded(splits, budget):
    """M1: a VAE of the images, once; E[z|x] of the training and of the test images, in its active units."""
    torch.manual_seed(0)
    net = partial(MLP, hidden=(budget["hidden"],), activation=nn.Softplus)
    vae = VAE(splits.event_shape, budget["latents"], encoder=net, decoder=net)
    fit(vae, splits.train, epochs=budget["M1"], batch_size=budget["batch"], learning_rate=2e-3, lr_schedule=cosine)
    with torch.no_grad():
        z, test = vae.q_z(splits.train[:]).mean, vae.q_z(splits.test[:]).mean
        used = active(z)
        return z[:, used], test[:, used]


def network(few, told, budget):
    """A network that has seen the labelled rows alone."""
    there = few.y >= 0
    net = MLPClassifier((budget["hidden"],), max_iter=1000, random_state=0)
    return float(net.fit(flat(few[there]), few.y[there].numpy()).score(flat(told.x), told.y.numpy()))


def logistic(few, told):
    there = few.y >= 0
    model = LogisticRegression(max_iter=2000).fit(flat(few.x[there]), few.y[there].numpy())
    return float(model.score(flat(told.x), told.y.numpy()))


def m2(few, told, budget, objective, seed):
    torch.manual_seed(seed)
    net = partial(MLP, hidden=(budget["hidden"],), activation=nn.Softplus)
    vae = SemiSupervisedVAE(few.event_shape, budget["latents"], 10, encoder=net, decoder=net, classifier=net)
    options = {"batch_size": budget["batch"], "lr_schedule": cosine, "seed": seed}
    fit(vae, few, epochs=budget["M2"], objective=objective, **options)
    return accuracy(vae, told)["accuracy"]["value"]


def m1_m2(few, told, budget, seed):
    """M2 of M1's codes. They are near a standard normal: with few z of its own, y is what tells them apart."""
    torch.manual_seed(seed)
    net = partial(MLP, hidden=(300,))
    likelihood = partial(Normal, learn="one")
    vae = SemiSupervisedVAE(few.event_shape, 3, 10, likelihood=likelihood, encoder=net, decoder=net, classifier=net)
    options = {"batch_size": budget["batch"], "lr_schedule": cosine, "learning_rate": 2e-3, "seed": seed}
    fit(vae, few, epochs=budget["M1 + M2"], labelled_batch_size=budget["batch"] // 20, **options)
    return accuracy(vae, told)["accuracy"]["value"]


def flat(x):
    return x.flatten(1).numpy()


def answer(rates, counts, name, n):
    accuracy = {way: {count: rate(of[count], n) for count in counts} for way, of in rates.items()}
    rows = []
    for way in rates:
        published = [PUBLISHED.get((way, count), "") for count in counts] if name == "mnist" else []
        rows.append([way, *accuracy[way].values(), *published])
    heads = ["", *(f"{count} labels" for count in counts)]
    heads += [f"published, {count}" for count in counts] if name == "mnist" else []
    fewest = {way: accuracy[way][counts[0]] for way in ("M1 + M2", "classifier alone", "M1", "M2")}
    return [Line(f"Accuracy with {counts[0]} labels", fewest)], [Table(heads, rows)]
