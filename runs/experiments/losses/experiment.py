"""Squared errors and KL, summed or averaged: which likelihood and beta does each loss imply, and what is learned?"""

import math
from functools import partial
from itertools import islice

import torch

from pyrovae import SVI, VAE, data, evaluate, plots, squared_error
from pyrovae.data import subset
from pyrovae.experiments import Findings, Line, Table, spread
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, KL, Reconstruction
from pyrovae.programs.importance import reconstruct
from pyrovae.training.train import Training

BUDGETS = {
    "digits": {"latents": 8, "hidden": (100,), "epochs": 20, "batch_size": 32, "learning_rate": 3e-3},
    "mnist": {"latents": 20, "hidden": (200,), "epochs": 10, "batch_size": 128, "learning_rate": 1e-3},
}
# How each term is put together: over the pixels or latents of a datum, and whether it is averaged over the batch.
SQUARES = {"summed": ("sum", False), "/ batch": ("sum", True), "/ batch / pixels": ("mean", True)}
KLS = {
    "summed": ("sum", False),
    "/ batch": ("sum", True),
    "/ batch / latents": ("mean", True),
    "/ batch / pixels": ("mean-per-value", True),
}
OTHERS = ("Bernoulli", "learned scale", "squares alone", "KL alone")
ROWS, STEPS = 2000, 40  # of the test images; with the KL alone
CAPTION = (
    "How many latents are active for losses of squared errors and KL. Each loss is the ELBO of a normal likelihood "
    "with a variance s² of its own, the horizontal axis. Green rings: how many eigenvalues of the pixels' covariance"
    " are above s², which is what a linear VAE would use."
)
NOTES = (
    "Rows with the same s² are the same loss up to a factor, and one training. beta is relative to the sum of "
    "squares, whose s² is 0.5. Eigenvalues are counted up to the number of latents; the largest is {largest:.3g}. "
    '"active units" has one number for each seed. MSE is that of E[x|z] at draws of q(z|x), with pixels from 0 to 1.'
    " -ELBO is in nats per image, a density of grey values in every row. The learned s² is optimal where it equals "
    "the MSE of training images. The KL is that to the prior p(z); KL(q(z|x) || p(z|x)) is the distance from the "
    "ELBO to log p(x), and is in no loss.\n\n"
    "By the linear rule, the mean of squares with the mean of the latents' KLs, s² = {pixels} / (2 latents), has "
    "active latents with more than {most} latents; here there are {latents}. With the KL divided by the pixels too, "
    "it is the sum again.",
    'MSE is to the same grey images. "KL alone" minimises the KL for {steps} steps of 128 images: every q(z|x) '
    "becomes the prior, and the decoder is never trained.",
)


def experiment(name, seeds):
    budget, greys, binary = BUDGETS[name], data.load(name, binarize="none", valid=0), data.load(name, valid=0)
    cells = {(row, column): cell(greys.event_shape, budget, row, column) for row in SQUARES for column in KLS}
    scales = sorted({each.scale_at_beta_one for each in cells.values()})
    found = []
    for seed in range(seeds):
        found.append({scale: normal(scale, greys, budget, seed) for scale in scales})
        found[-1] |= {other: another(other, greys, binary, budget, seed) for other in OTHERS}
    eigenvalues = torch.linalg.eigvalsh(greys.train[:].flatten(1).T.cov()).flip(0)[: budget["latents"]]
    steps = [kl_alone(binary.train, budget, seed) for seed in range(seeds)]
    beyond = [int((eigenvalues > scale**2).sum()) for scale in scales]
    counts = dict(zip(scales, beyond, strict=True))
    figures = {"active-units": thresholds(found[0], scales, beyond), "epochs": animation(cells, found[0])}
    settings = rule(cells, eigenvalues) | {"steps": STEPS}
    return Findings(*answer(cells, found, counts, eigenvalues, steps), figures, settings)


def cell(shape, budget, row, column):
    """The likelihood and beta of a loss."""
    (squares, first), (kl, second) = SQUARES[row], KLS[column]
    averaged = {(True, False): "squares", (False, True): "kl"}.get((first, second), "both")
    return squared_error(shape, budget["latents"], squares, kl, averaged, budget["batch_size"])


def normal(scale, greys, budget, seed):
    return trained(
        f"s² = {short(scale**2)}", partial(Normal, scale=scale), ELBO(1.0, "analytic"), greys, greys, budget, seed
    )


def another(name, greys, binary, budget, seed):
    """What is no cell: another likelihood, its scale learned, or one of the two terms left out."""
    likelihood, objective, splits = {
        "Bernoulli": (Bernoulli, ELBO(1.0, "analytic"), binary),
        "learned scale": (partial(Normal, learn="one"), ELBO(1.0, "analytic"), greys),
        "squares alone": (Normal, Reconstruction(), greys),
        "KL alone": (Bernoulli, KL(1.0, "analytic"), binary),
    }[name]
    return trained(name, likelihood, objective, splits, greys, budget, seed)


def built(shape, likelihood, budget, seed):
    torch.manual_seed(seed)
    mlp = partial(MLP, hidden=budget["hidden"])
    return VAE(shape, budget["latents"], likelihood=likelihood, encoder=mlp, decoder=mlp)


def trained(name, likelihood, objective, splits, greys, budget, seed):
    """What is generated from the same z before and after each epoch, and numbers of the end that have no measure."""
    vae = built(splits.event_shape, likelihood, budget, seed)
    z = torch.randn(16, budget["latents"], generator=torch.Generator().manual_seed(0))
    options = {key: budget[key] for key in ("batch_size", "learning_rate")} | {"objective": objective, "seed": seed}
    pictures = [decoded(vae, z)]
    pictures += [decoded(vae, z) for _ in Training(vae, splits, epochs=budget["epochs"], **options)]
    test = subset(splits.test, ROWS)[:]
    score = evaluate(vae, test, 5)
    print(f"{name}, seed {seed}: {score['active_units']['z']} active, KL {score['kl']['value']:.2f}", flush=True)
    return {
        "pictures": pictures,
        "KL": score["kl"]["value"],
        "-ELBO": -score["elbo"]["value"],
        "active": score["active_units"]["z"],
        "MSE": (subset(greys.test, ROWS)[:] - reconstruct(vae, test)).square().mean().item(),
        "variance": torch.as_tensor(getattr(vae.likelihood, "scale", math.nan)).item() ** 2,
    }


def decoded(vae, z):
    with torch.no_grad():
        return vae.p_x(z).mean.numpy()


def kl_alone(train, budget, seed):
    """The KL of the batch before each of the first steps that have nothing else to lower."""
    vae = built(train.event_shape, Bernoulli, budget, seed)
    svi = SVI(vae.model, vae.guide, partial(torch.optim.Adam, lr=1e-3), KL(1.0, "analytic"))
    rows = torch.cat([torch.randperm(len(train)) for _ in range(4)]).split(128)
    return [svi.step(train[each]) for each in islice(rows, STEPS + 1)]


def animation(cells, found):
    """Frames: 16 images of each loss after each epoch, which stays for three frames."""
    rows = {f"squares {row}": {} for row in SQUARES}
    for (row, column), each in cells.items():
        rows[f"squares {row}"][f"KL {column}\n$s^2$ = {short(each.scale_at_beta_one**2)}"] = found[
            each.scale_at_beta_one
        ]["pictures"]
    rows["others"] = {other: found[other]["pictures"] for other in OTHERS}
    frames = []
    for epoch in range(len(found["KL alone"]["pictures"])):
        shown = {name: {title: pictures[epoch] for title, pictures in row.items()} for name, row in rows.items()}
        frames += [plots.image_matrix(shown, 4, f"after epoch {epoch}")] * 3
    return frames


def thresholds(found, scales, beyond):
    """Active units by s^2, with a band where they vanish: no loss has a variance there."""
    learned, variances = found["learned scale"], [scale**2 for scale in scales]
    points = {
        "active units, $s^2$ of a loss": (variances, [found[scale]["active"] for scale in scales]),
        "active units, $s^2$ learned": ([learned["variance"]], [learned["active"]]),
        "eigenvalues of the pixels above $s^2$": (variances, beyond),
    }
    figure = plots.rings(points, "variance $s^2$ (pixels from 0 to 1)", "latents", "x")
    figure.axes[0].yaxis.get_major_locator().set_params(integer=True)
    alive, dead = ends([found], scales)
    if 0 < alive < dead < math.inf:
        figure.axes[0].axvspan(alive**2, dead**2, color="0.88", lw=0, zorder=0)
        place = figure.axes[0].get_xaxis_transform()
        figure.axes[0].text(alive * dead, 0.5, "none tested", transform=place, rotation=90, ha="center", va="center")
    return figure


def ends(found, scales):
    """The largest scale that has active units, and the least above it; found: for each seed."""
    alive = max((scale for scale in scales if any(each[scale]["active"] for each in found)), default=0)
    return alive, min((scale for scale in scales if scale > alive), default=math.inf)


def answer(cells, found, beyond, eigenvalues, steps):
    """found: for each seed, by scale, numbers of a training; beyond: by scale, how many eigenvalues are above s^2."""
    alive, dead = ends(found, list(beyond))
    best = min(beyond, key=lambda scale: sum(one[scale]["-ELBO"] for one in found))
    learned, kl = "learned scale", [[one[step] for one in steps] for step in (0, STEPS)]
    lines = [
        Line(
            "Variance s² of a loss", {"largest with active units": short(alive**2), "smallest above it": short(dead**2)}
        ),
        Line("Learned s²", {"": over(found, learned, "variance", 4)}),
        Line(
            "-ELBO, nats",
            {learned: over(found, learned, "-ELBO", 1), f"s² = {best**2:.3g}": over(found, best, "-ELBO", 1)},
        ),
        Line("KL alone, nats", dict(zip(("first step", "last step"), (spread(of, 4) for of in kl), strict=True))),
    ]
    others = [[name, *numbers([one[name] for one in found])[:3]] for name in OTHERS if name != learned]
    second = Table(["", "active units", "KL, nats", "MSE"], others)
    return lines, [cells_table(cells, found, beyond, eigenvalues), second]


def over(found, name, key, digits):
    return spread([one[name][key] for one in found], digits)


def rule(cells, eigenvalues):
    """By the linear rule: with how many latents the mean of squares with the mean of KLs has an active one."""
    scale = cells["/ batch / pixels", "/ batch"].scale_at_beta_one
    latents = (scale / cells["/ batch / pixels", "/ batch / latents"].scale_at_beta_one) ** 2
    pixels = round(2 * scale**2)
    most = int(pixels / 2 / eigenvalues[0])
    return {"pixels": pixels, "latents": round(float(latents)), "most": most, "largest": float(eigenvalues[0])}


def cells_table(cells, found, beyond, eigenvalues):
    heads = ["squares", "KL", "s²", "beta", "eigenvalues > s²", "active units", "KL, nats", "MSE", "-ELBO, nats"]
    rows = []
    for (row, column), loss in cells.items():
        s = loss.scale_at_beta_one
        rows.append([row, column, short(s**2), short(2 * s**2), beyond[s], *numbers([one[s] for one in found])])
    learned = [one["learned scale"] for one in found]
    variances = [one["variance"] for one in learned]
    more = sorted({int((eigenvalues > variance).sum()) for variance in variances})
    twice = spread([2 * variance for variance in variances], 4)
    rows.append(["learned scale", "summed", spread(variances, 4), twice, more, *numbers(learned)])
    return Table(heads, rows)


def numbers(ours):
    return [
        [one["active"] for one in ours],
        spread([one["KL"] for one in ours]),
        spread([one["MSE"] for one in ours], 4),
        spread([one["-ELBO"] for one in ours], 1),
    ]


def short(number):
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
