"""How well do clusters found without labels match the digits: of pixels, of a VAE's codes, of a MixtureVAE?"""

import copy
from functools import partial

import torch
from pyro import poutine
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.mixture import GaussianMixture
from torch import nn

from pyrovae import data, fit, plots
from pyrovae.evaluation.clusters import agreement, responsibilities
from pyrovae.experiments import OF_TESTS, OVER_SEEDS, Findings, Line, Table, rate, spread
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.models import MixtureVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO

BUDGETS = {
    "digits": {"likelihood": partial(Normal, scale=0.2), "hidden": (200,), "epochs": (30, 20), "batch_size": 128},
    "mnist": {"likelihood": Bernoulli, "hidden": (400, 400), "epochs": (10, 15), "batch_size": 256},
}
LATENTS, CLUSTERS, POINTS = 10, 10, 2000
APART = "a mixture of normals of the same codes"
CAPTION = (
    "Ten clusters that MixtureVAE found without labels, one in each row: its most frequent digit with that digit's "
    "share, test images in it, and images that the model draws from it."
)
NOTES = (
    "For the accuracy each cluster is matched to a different digit. Labels are used for these scores alone. Both "
    "VAEs share {before} epochs at beta 0.1. Then the clusters are initialised, and {after} epochs at beta 1 follow:"
    " with the clusters in the model (MixtureVAE), and without them (the VAE, whose codes are clustered afterwards).",
)


def experiment(name, seeds):
    greys = data.load(name, binarize="none")
    splits = data.load(name) if BUDGETS[name]["likelihood"] is Bernoulli else greys
    found, first = [], None
    for seed in range(seeds):
        pixels = (each[:].flatten(1).numpy() for each in (greys.train, greys.test))
        vae, clusters = by_vae(splits, BUDGETS[name], seed)
        first = first or vae
        clusters = {"k-means of the pixels": k_means(*pixels, seed)} | clusters
        found.append({kind: agreement(torch.as_tensor(each), splits.test.y) for kind, each in clusters.items()})
        print(*(f"seed {seed}, {kind}: accuracy {each['accuracy']:.3f}" for kind, each in found[-1].items()), sep="\n")
    figures = pictures(first, greys.test, splits.test, found[0]["MixtureVAE"])
    error = f"of accuracies {OF_TESTS}; else {OVER_SEEDS}"
    before, after = BUDGETS[name]["epochs"]
    return Findings(*answer(found, len(splits.test)), figures, {"before": before, "after": after}, error)


def by_vae(splits, budget, seed):
    """A MixtureVAE, beside a VAE that is trained as long: before there are clusters, they are the same."""
    torch.manual_seed(seed)
    network = partial(MLP, hidden=budget["hidden"])
    vae = MixtureVAE(splits.event_shape, LATENTS, CLUSTERS, budget["likelihood"], encoder=network, decoder=network)
    (before, together), x, test = budget["epochs"], splits.train[:], splits.test[:]
    options = {"batch_size": budget["batch_size"], "learning_rate": 2e-3, "seed": seed}
    fit(vae, splits, epochs=before, objective=ELBO(0.1, "enumerated"), **options)
    plain = copy.deepcopy(vae)
    plain.prior.requires_grad_(False)
    fit(plain, splits, epochs=together, **options)
    vae.initialise(x)
    fit(vae, splits, epochs=together, **options)
    codes = [plain.q_z(each).mean.detach().double().numpy() for each in (x, test)]
    return vae, {
        "k-means of the codes of a VAE": k_means(*codes, seed),
        APART: GaussianMixture(CLUSTERS, n_init=5, random_state=seed).fit(codes[0]).predict(codes[1]),
        "MixtureVAE": responsibilities(vae, test).argmax(1),
    }


def k_means(train, test, seed):
    return KMeans(CLUSTERS, n_init=5, random_state=seed).fit(train).predict(test)


@torch.no_grad()
def pictures(vae, greys, test, found):
    """Each cluster, in the order of the class that it is matched to: five of its test images, and five new ones."""
    belongs = responsibilities(vae, test).argmax(1)
    order = sorted(map(int, found["matching"]), key=lambda cluster: found["matching"][str(cluster)])
    names, real, new = [], [], []
    for cluster in order:
        labels = greys.y[belongs == cluster]
        most = labels.bincount().argmax()
        names.append(f"{(labels == most).double().mean():.0%} {most}s")
        rows = (belongs == cluster).nonzero()[:, 0]
        real.append(greys[rows[torch.arange(5) % len(rows)]])
        y = nn.functional.one_hot(torch.tensor(5 * [cluster]), CLUSTERS).float()
        drawn = poutine.trace(poutine.condition(vae.model, {"y": y})).get_trace(n=5)
        new.append(drawn.nodes["x"]["fn"].mean)
    both = {"test images": torch.stack(real).numpy(), r"$E[x|z]$, $z \sim p(z|y)$": torch.stack(new).numpy()}
    few = data.at_random(len(test), POINTS)
    codes = vae.q_z(test[few]).mean.numpy()
    plane = TSNE(init="pca", random_state=0).fit_transform(codes)
    matched = torch.tensor([found["matching"].get(str(each), -1) for each in belongs[few].tolist()])
    by = {"t-SNE of $E[z|x]$, by class": test.y[few].numpy(), "by the class of the cluster": matched.numpy()}
    return {
        "clusters": plots.named_table(names, both, 3.0),
        "latents-by-class-and-cluster": plots.colourings(plane, by),
    }


def answer(found, n):
    rates = {kind: [one[kind]["accuracy"] for one in found] for kind in found[0]}
    accuracy = {kind: rate(values, n) for kind, values in rates.items()}
    rows = [
        [kind, accuracy[kind], *(spread([one[kind][name] for one in found], 3) for name in ("nmi", "ari"))]
        for kind in rates
    ]
    gains = {f"over {kind}": less(rates["MixtureVAE"], rates[kind]) for kind in rates if kind != "MixtureVAE"}
    lines = [Line("Accuracy", accuracy), Line("Gain of MixtureVAE in accuracy", gains)]
    return lines, [Table(["clusters", "accuracy", "NMI", "ARI"], rows)]


def less(ours, other):
    return spread([one - two for one, two in zip(ours, other, strict=True)], 3)
