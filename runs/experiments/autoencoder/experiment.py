"""What does the KL add to an autoencoder: is its latent space continuous, and can you sample from it?"""

import math
from functools import partial

import torch
from sklearn.manifold import trustworthiness
from torch import nn
from torch.distributions import MultivariateNormal
from torch.nn import functional as F  # noqa: N812

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.quality import manifolds
from pyrovae.experiments import Findings, Line, Number, Table, spread
from pyrovae.guides import Delta, DiagonalNormal
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, Reconstruction
from pyrovae.training.rates import cosine

LEARNED, GREYS = partial(Normal, scale=0.3, learn="one"), partial(Bernoulli, soft_targets=True)
BUDGETS = {
    "digits": {"likelihood": LEARNED, "hidden": (128, 64), "latents": (2, 8), "epochs": (80, 40), "batch_size": 64},
    "mnist": {"likelihood": GREYS, "hidden": (400, 200), "latents": (2, 16), "epochs": (10, 5), "batch_size": 128},
}  # epochs of the autoencoders, and of the classifier
# The autoencoder is the VAE whose guide is a point, trained by E[log p(x|z)] alone.
KINDS = {"autoencoder": (Delta, Reconstruction), "VAE": (DiagonalNormal, partial(ELBO, estimator="analytic"))}
ROWS, PAIRS, STEPS, NEIGHBOURS, FRAMES = 2000, 200, 32, 10, 36
CODES, PRIOR, FITTED = "codes of test images", "N(0, I)", "normal of its codes"
SMOOTH = {
    "detour": "path / distance",
    "jump": "largest / mean step",
    "trust": "trustworthiness",
    "sure between": "sure between",
}
DRAWN = ["completeness", "z", "sure", "precision", "coverage"]
CAPTION = (
    "Images decoded from z that moves through the latent space: an autoencoder with z ~ N(0, I), the same "
    "autoencoder with z from a normal fitted to its codes, and a VAE with z from its prior."
)
NOTES = (
    "The autoencoder is a VAE whose guide is a point (`guides.Delta`), trained by E[log p(x|z)] alone "
    "(`objectives.Reconstruction`). Everything else is equal, except that its encoder returns no variance. The nats "
    "per datum measure: {measure}. Path and steps are Euclidean lengths over {points} decoded points on the line "
    "between the codes of two test images. Trustworthiness compares the {neighbours} nearest codes with their ranks "
    'in pixels. "sure between" is the share of these points that a classifier recognises.',
    '"sure" is the share of images that a classifier recognises: its highest probability is above the 5 % quantile '
    "of that of test images. It may be sure of nonsense. Precision is the share of decoded images that lie among "
    "test images, and coverage the share of test images with a decoded image nearby, in the features of that "
    "classifier (`quality.manifolds`). In the pictures u is z for the VAE; for the autoencoder m + L u = z, with the"
    " mean m and the covariance L L' of its codes.",
)


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name, binarize="none", valid=0)
    judge = Judge(splits, budget["epochs"][1])
    found, first = {}, {}
    for seed in range(seeds):
        for latents in budget["latents"]:
            for kind in KINDS:
                vae = trained(splits, kind, latents, budget, seed)
                found.setdefault((kind, latents), []).append(measured(vae, splits, judge, seed))
                first.setdefault((kind, latents), vae)
                print(f"{kind}, {latents} latents, seed {seed}: {found[kind, latents][-1]}", flush=True)
    two, more = ({kind: first[kind, latents] for kind in KINDS} for latents in budget["latents"])
    figures = {"walk": walk(more, splits), "plane": plane(two, splits), "interpolation": interpolation(more, splits)}
    *_, (vae, *_) = found.values()
    settings = {"measure": vae["measure"], "points": STEPS + 1, "neighbours": NEIGHBOURS}
    return Findings(*answer(found, judge.measured(judge.others)), figures, settings)


class Judge:
    """A classifier of the images: how sure it is of one, and what it sees in it.

    It calls itself sure where its highest probability is above the 5 % quantile of that of every other test image.
    """

    def __init__(self, splits, epochs):
        torch.manual_seed(0)
        self.net = MLP(splits.event_shape, splits.num_classes, hidden=(256, 64))
        x, y = splits.train[:], splits.train.y
        optimizer = torch.optim.Adam(self.net.parameters())
        for rows in (rows for _ in range(epochs) for rows in torch.randperm(len(x)).split(128)):
            optimizer.zero_grad()
            F.cross_entropy(self.net(x[rows]), y[rows]).backward()
            optimizer.step()
        self.features = nn.Sequential(*list(self.net)[:-1])
        self.real, self.others = splits.test[: 2 * ROWS : 2], splits.test[1 : 2 * ROWS : 2]
        self.threshold = self.confidence(self.real).quantile(0.05)

    @torch.no_grad()
    def confidence(self, x):
        return self.net(x).softmax(-1).amax(-1)

    def sure(self, x):
        return (self.confidence(x) > self.threshold).double().mean().item()

    def measured(self, x):
        """How much of x is like the data, and of the data like x."""
        found = manifolds(x, self.real, features=lambda images: self.features(images.flatten(1)))
        return {"sure": self.sure(x)} | {key: found[key]["value"] for key in ("precision", "coverage")}


def trained(splits, kind, latents, budget, seed):
    torch.manual_seed(seed)
    guide, objective = KINDS[kind]
    network = partial(MLP, hidden=budget["hidden"])
    parts = {"likelihood": budget["likelihood"], "guide": guide, "encoder": network, "decoder": network}
    vae = VAE(splits.event_shape, latents, **parts)
    length = {"epochs": budget["epochs"][0], "batch_size": budget["batch_size"], "seed": seed}
    fit(vae, splits, objective=objective(), learning_rate=2e-3, lr_schedule=cosine, **length)
    return vae


@torch.no_grad()
def measured(vae, splits, judge, seed):
    """Continuity between codes of test images, and completeness of what is drawn from two normals."""
    torch.manual_seed(seed)
    x = subset(splits.test, ROWS)[:]
    z = vae.q_z(x).mean
    start, end = z[torch.randperm(len(x))[: 2 * min(PAIRS, len(x) // 2)]].chunk(2)
    path = vae.p_x(between(start, end, STEPS)).mean
    steps, ends = path.flatten(2).diff(dim=1).norm(dim=-1), (path[:, -1] - path[:, 0]).flatten(1).norm(dim=-1)
    u = torch.randn(len(judge.others), z.shape[1])
    rebuilt = evaluate(vae, x, 10)
    drawn = {source: judge.measured(vae.p_x(at(each, u)).mean) for source, each in normals(vae, splits).items()}
    return {
        "measure": rebuilt["measure"],
        "cost": -rebuilt["reconstruction"]["value"],
        "detour": (steps.sum(1) / ends).mean().item(),
        "jump": (steps.amax(1) / steps.mean(1)).mean().item(),
        "trust": trustworthiness(x.flatten(1), z, n_neighbors=NEIGHBOURS),
        "sure between": judge.sure(path[:, 1:-1].flatten(0, 1)),
        "drawn": {CODES: judge.measured(vae.p_x(vae.q_z(judge.others).mean).mean)} | drawn,
    }


def between(start, end, steps):
    """The straight line from start to end, both of them on it. (N, steps + 1, latents)"""
    return torch.stack([torch.lerp(start, end, share) for share in torch.linspace(0, 1, steps + 1)], 1)


@torch.no_grad()
def normals(vae, splits):
    """What one may draw latents from: N(0, I), and the normal N(m, L L') with the codes' mean and covariance."""
    codes = vae.q_z(splits.train[:10000]).mean
    size = codes.shape[1]
    fitted = MultivariateNormal(codes.mean(0), codes.T.double().cov().float())
    return {PRIOR: MultivariateNormal(torch.zeros(size), torch.eye(size)), FITTED: fitted}


def at(normal, u):
    """m + L u"""
    return normal.loc + u @ normal.scale_tril.T


@torch.no_grad()
def plane(vaes, splits, side=16):
    """Decoded at u, and the u of codes, z = m + L u: N(0, I) of the VAE, for the autoencoder that of its codes."""
    axis = torch.linspace(-3, 3, side)
    u = torch.stack(torch.meshgrid(axis, axis.flip(0), indexing="xy"), -1)
    x, of = subset(splits.test, ROWS)[:], {}
    for kind, vae in vaes.items():
        normal = normals(vae, splits)[PRIOR if kind == "VAE" else FITTED]
        codes = torch.linalg.solve(normal.scale_tril, (vae.q_z(x).mean - normal.loc).T).T
        of[kind] = codes.numpy(), vae.p_x(at(normal, u)).mean.numpy()
    return plots.latent_planes(of, subset(splits.test, ROWS).y.numpy(), 3, "$u_1$", "$u_2$")


@torch.no_grad()
def interpolation(vaes, splits):
    """From an image of each class to one of the class after the next but one."""
    x, y = subset(splits.test, ROWS)[:], subset(splits.test, ROWS).y
    start = torch.stack([x[y == each][0] for each in y.unique()])
    end = start.roll(-3, 0)
    lines = {kind: between(vae.q_z(start).mean, vae.q_z(end).mean, 6) for kind, vae in vaes.items()}
    means = {kind: vaes[kind].p_x(line).mean for kind, line in lines.items()}
    return plots.image_table({"$x$": start[:, None]} | means | {"$x'$": end[:, None]})


@torch.no_grad()
def walk(vaes, splits, rows=4):
    """Frames: u cos t + u' sin t is standard normal at every t, and is where it was after a full turn."""
    torch.manual_seed(1)
    plain, vae = vaes["autoencoder"], vaes["VAE"]
    ways = {f"autoencoder, $z \\sim$ {source}": (plain, each) for source, each in normals(plain, splits).items()}
    ways |= {r"VAE, $z \sim$ N(0, I)": (vae, normals(vae, splits)[PRIOR])}
    u, other = torch.randn(2, rows, 5, vae.latent_shape[0])
    turns = torch.linspace(0, 2 * math.pi, FRAMES + 1)[1:]
    return [
        plots.image_table(
            {name: v.p_x(at(each, u * t.cos() + other * t.sin())).mean for name, (v, each) in ways.items()}
        )
        for t in turns
    ]


def answer(found, real):
    smooth, drawn = [], [["other test images", "", *(Number(value, None, 3) for value in real.values())]]
    for (kind, latents), trainings in found.items():
        name = f"{kind}, {latents} latents"
        cells = (spread([one[key] for one in trainings], 1 + (key != "cost")) for key in ("cost", *SMOOTH))
        smooth.append([name, *cells])
        for source in trainings[0]["drawn"]:
            numbers = [one["drawn"][source] for one in trainings]
            drawn.append([name, source, *(spread([one[key] for one in numbers], 3) for key in real)])
    heads = ["continuity", cost(found), *SMOOTH.values()]
    return [recognised(found)], [Table(heads, smooth), Table(DRAWN, drawn)]


def recognised(found):
    more = max(latents for _, latents in found)
    shown = [("autoencoder", PRIOR), ("autoencoder", FITTED), ("VAE", PRIOR)]
    shares = {
        f"{kind}, {source}": spread([one["drawn"][source]["sure"] for one in found[kind, more]], 3)
        for kind, source in shown
    }
    return Line(f"Share of draws that a classifier recognises, {more} latents", shares)


def cost(found):
    """What a reconstruction costs: -E_q[log p(x|z)], or, of grey targets of a Bernoulli, which is no likelihood."""
    *_, (vae, *_) = found.values()
    return "cross-entropy of greys" if vae["measure"].startswith("cross-entropy") else "-log p(x|z)"
