"""What do the latents of a VAE contain? Samples, maps, interpolations, variations, and single latents."""

import math
from functools import partial
from itertools import pairwise

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.evaluate import ACTIVE, active
from pyrovae.experiments import OF_TESTS, OVER_SEEDS, Findings, Line, Table, rate, spread
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.training.rates import cosine

LEARNED = partial(Normal, scale=0.3, learn="one")
BUDGETS = {
    "digits": {"likelihood": LEARNED, "hidden": (200, 100), "latents": 10, "epochs": 100, "batch_size": 64},
    "mnist": {"likelihood": Bernoulli, "hidden": (400, 200), "latents": 20, "epochs": 20, "batch_size": 128},
}
ROWS, NEIGHBOURS, FRAMES = 2000, 10, 36
FULL, GREYS, PIXELS = "all latents", "grey pixels", "black-and-white pixels"
CAPTION = (
    "The codes of test images in a plane, by PCA and by t-SNE. Colours are the digit classes, which no model has seen."
)
NOTES = (
    "Accuracy is that of a {neighbours}-nearest-neighbour classifier of at most {images} test images, in tenfold "
    "cross-validation: with the codes in all {latents} latents, in a map of them, or with the images themselves. "
    "Trustworthiness compares the {neighbours} nearest images in a map with their ranks in all latents; it is 1 if "
    "none is far away there. A latent is active if its mean varies over the images with a variance above {active}.",
)


def experiment(name, seeds):
    budget = BUDGETS[name]
    splits = data.load(name, binarize="dynamic" if budget["likelihood"] is Bernoulli else "none", valid=0)
    test, classes = subset(splits.test, ROWS)[:], subset(splits.test, ROWS).y
    pixels = {GREYS: subset(data.load(name, binarize="none", valid=0).test, ROWS)[:]}
    if budget["likelihood"] is Bernoulli:
        pixels |= {PIXELS: test}
    found, first = [], None
    for seed in range(seeds):
        vae = trained(splits, budget, seed)
        with torch.no_grad():
            codes = vae.q_z(test).mean
        maps = {"PCA": PCA(2).fit_transform(codes), "t-SNE": TSNE(init="pca", random_state=seed).fit_transform(codes)}
        found.append(measured(vae, test, classes, pixels, codes, maps))
        first = first or (vae, codes, maps)
        print(f"seed {seed}: {found[-1]}", flush=True)
    shown = torch.stack([test[classes == each][0] for each in classes.unique()])
    vae, codes, maps = first
    nats = torch.tensor(found[0]["kl_per_latent"]).where(active(codes), 0)
    figures = {"maps": plots.maps(maps, classes.numpy())} | pictures(vae, shown, nats)
    settings = {"neighbours": NEIGHBOURS, "images": ROWS, "latents": budget["latents"], "active": ACTIVE}
    return Findings(*answer(found, len(test)), figures, settings, f"of accuracies {OF_TESTS}; else {OVER_SEEDS}")


def trained(splits, budget, seed):
    torch.manual_seed(seed)
    network = partial(MLP, hidden=budget["hidden"])
    vae = VAE(splits.event_shape, budget["latents"], likelihood=budget["likelihood"], encoder=network, decoder=network)
    steps = budget["epochs"] * -(-len(splits.train) // budget["batch_size"])
    length = {"epochs": budget["epochs"], "batch_size": budget["batch_size"], "seed": seed}
    objective = ELBO(WarmUp(steps // 5), "analytic")  # without it latents fade that would be of use later
    fit(vae, splits, objective=objective, learning_rate=2e-3, lr_schedule=cosine, **length)
    return vae


def measured(vae, test, classes, pixels, codes, maps):
    """What a VAE is worth, and how well its codes and their maps keep classes and neighbourhoods."""
    numbers, y = evaluate(vae, test, 100), classes.numpy()
    spaces = {kind: x.flatten(1).numpy() for kind, x in pixels.items()} | {FULL: codes.numpy()} | maps
    nearest = KNeighborsClassifier(NEIGHBOURS)
    return {
        "log p(x)": numbers["log_likelihood"]["value"],
        "kl_per_latent": numbers["kl_per_latent"]["z"],
        "active": numbers["active_units"]["z"],
        "accuracy": {space: cross_val_score(nearest, at, y, cv=10).mean() for space, at in spaces.items()},
        "kept": {space: trustworthiness(codes, at, n_neighbors=NEIGHBOURS) for space, at in maps.items()},
    }


@torch.no_grad()
def pictures(vae, x, nats):
    """Of images x (10, ...), one of each class, and of the KL of each latent, 0 where it is inactive."""
    torch.manual_seed(0)
    drawn = vae.p_x(vae.p_z().sample((5,)))
    q = vae.q_z(x)
    ends, after = q.mean, q.mean.roll(-1, 0)
    between = torch.stack([vae.p_x(torch.lerp(ends, after, share)).mean for share in torch.linspace(0, 1, 9)], 1)
    varied = vae.p_x(q.sample((8,))).mean.transpose(0, 1)
    along = r"$E[x|z]$ from $E_q[z|x]$ to $E_q[z|x']$"
    return {
        "samples": plots.image_rows({r"$x \sim p(x|z)$": drawn.sample().numpy(), "$E[x|z]$": drawn.mean.numpy()}),
        "interpolation": plots.image_table({"$x$": x[:, None], along: between, "$x'$": x.roll(-1, 0)[:, None]}),
        "variations": plots.image_table({"$x$": x[:, None], r"$E[x|z]$ for draws $z \sim q(z|x)$": varied}),
        "traversals": traversals(vae, ends[0], nats),
        "morphing": morphing(vae, ends),
    }


def traversals(vae, z, nats):
    """One latent a row, that of the most KL first, from -3 to 3; the others stay as they are for one image."""
    order, steps = nats.argsort(descending=True), torch.linspace(-3, 3, 11)
    moved = z.repeat(len(order), len(steps), 1)
    moved[torch.arange(len(order)), :, order] = steps
    names = [f"$z_{{{each + 1}}}$: " + said(nats[each]) for each in order]
    return plots.named_table(names, {"$E[x|z]$ as one latent goes from -3 to 3": vae.p_x(moved).mean.numpy()})


def said(nats):
    return f"{nats:.1f} nats" if nats > 0 else "inactive"


def morphing(vae, ends):
    """The codes of ten images, each on its way to the next, to the one after, and back: the middle frame is between."""
    shares = (1 - torch.cos(torch.linspace(0, math.pi, FRAMES // 3 + 1)[1:])) / 2
    stops = [ends, ends.roll(-1, 0), ends.roll(-2, 0), ends]
    codes = [torch.lerp(start, end, float(share)) for start, end in pairwise(stops) for share in shares]
    return [plots.image_rows({"": vae.p_x(z).mean.numpy()}) for z in codes]


def answer(found, n):
    accuracy, kept = (
        {name: [one[key][name] for one in found] for name in found[0][key]} for key in ("accuracy", "kept")
    )
    rates = {space: rate(values, n) for space, values in accuracy.items()}
    rows = [[space, rates[space], spread(kept[space], 3) if space in kept else ""] for space in rates]
    lines = [
        Line("Accuracy", rates),
        Line("Active latents", {"": spread([one["active"] for one in found], int(len(found) > 1))}),
        Line("log p(x), nats per datum", {"": spread([one["log p(x)"] for one in found])}),
    ]
    return lines, [Table(["neighbours in", "accuracy", "trustworthiness"], rows)]
