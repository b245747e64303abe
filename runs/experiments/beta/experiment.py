"""How does beta, the weight of the KL, change what a VAE encodes and draws, and what does each beta cost in nats?"""

import math
from functools import partial
from itertools import takewhile

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.information import kl_decomposition
from pyrovae.experiments import Findings, Line, Number, Table, spread
from pyrovae.models import ConditionalVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, Geometric
from pyrovae.training.train import Training

BUDGETS = {
    "digits": {"hidden": (100, 50), "betas": 25, "first": 60, "each": 4, "batch_size": 32},
    "mnist": {"hidden": (200, 100), "betas": 31, "first": 24, "each": 1, "batch_size": 128},
}
ROWS, PARTICLES = 2000, 50  # of the test images, and of z for each
PLANE, SQUARE = 8, 4  # images in a row of the plane of latents, and of a class's
CAPTION = (
    "The decoded plane of two latents, and the codes of test images in it, while beta, the weight of the KL, rises."
)
NOTES = (
    "Nats per image on test images. The distortion is -E_q[log p(x|z)]; distortion + KL = -ELBO. -log p(x) uses "
    '{samples} importance samples. "active units" has one number for each seed. This is a continuation: one '
    "training, in which each model starts from the one before, so later models have had more epochs.\n\n"
    "At beta > 1, distortion + beta KL is a bound on -log p(x), but a worse one than -ELBO. At beta < 1 it bounds "
    "nothing of this model: compare the columns at the smallest beta. Divided by beta it is, up to log Z(z), -ELBO "
    "for the likelihood p(x|z)^(1/beta) / Z(z). For a normal likelihood this is a normal with variance beta s², and "
    "Z is constant. For a Bernoulli, Z(z) depends on z; at beta > 1 it is above 1, and the objective is no bound on "
    "log p(x) of that model.\n\n"
    "I(x; z) and KL of q(z), the KL from the aggregate posterior to the prior, use {images} images. No estimate of I"
    " exceeds log {images} = {ceiling:.2f}; near it I is too low, and the other too high by as much.",
)


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name, valid=0)
    found = [plain(splits, budget, seed) for seed in range(seeds)]
    alone = [from_scratch(splits, budget, seed) for seed in range(seeds)]
    classes = by_class(splits, budget)
    rows = min(ROWS, len(splits.test))
    return Findings(
        *answer(found, alone, classes, data.load(name, binarize="none", valid=0).train),
        {
            "LatentSpace": planes(found[0], splits.test.y[:rows].numpy()),
            "rate-distortion": curve(found[0], alone[0]),
            "information": nats(found[0], rows),
            "classes": strip(classes),
        }
        | {f"digit{y}": squares(classes, y) for y in range(10)},
        {"samples": PARTICLES, "images": rows, "ceiling": math.log(rows)},
    )


def betas(budget):
    """Eight to a decade, from .01 on."""
    return [10 ** (number / 8 - 2) for number in range(budget["betas"])]


def rising(vae, splits, budget, seed=0):
    """One training in which beta rises slowly; yields each of betas when the model has come there."""
    epoch, stops = -(-len(splits.train) // budget["batch_size"]), betas(budget)
    hold, rise = budget["first"], budget["each"] * (len(stops) - 1)
    objective = ELBO(Geometric(rise * epoch, stops[0], stops[-1], hold * epoch), "analytic")
    options = {"batch_size": budget["batch_size"], "objective": objective, "seed": seed}
    for record in Training(vae, splits, epochs=hold + rise, **options):
        number, between = divmod(record["epoch"] - hold, budget["each"])
        if number >= 0 and not between:
            print(f"{type(vae).__name__}, seed {seed}, beta {stops[number]:.3g}: {record['loss']:.2f}", flush=True)
            yield stops[number]


def plain(splits, budget, seed):
    """Of a VAE with two latents, at each beta: its numbers, codes and plane, turned to those before."""
    vae, test, found, codes = model(VAE, splits, budget, seed), subset(splits.test, ROWS)[:], {}, None
    for beta in rising(vae, splits, budget, seed):
        with torch.no_grad():
            turn = turning(vae.q_z(test).mean, codes)
            codes, plane = vae.q_z(test).mean @ turn, vae.p_x(square(PLANE, 3) @ turn.T).mean
        found[beta] = numbers(vae, test) | {"codes": codes, "plane": plane}
    return found


def model(kind, splits, budget, seed, **options):
    torch.manual_seed(seed)
    mlp = partial(MLP, hidden=budget["hidden"])
    return kind(splits.event_shape, 2, encoder=mlp, decoder=partial(MLP, hidden=budget["hidden"][::-1]), **options)


def turning(codes, before):
    """The rotation or reflection of codes (N, 2) that brings them nearest to those before.  (Procrustes)"""
    return torch.eye(2) if before is None else torch.from_numpy(orthogonal_procrustes(codes, before)[0])


def square(side, extent):
    """Places of a plane, (side, side, 2), the first row on top."""
    axis = torch.linspace(-extent, extent, side)
    return torch.stack(torch.meshgrid(axis, axis.flip(0), indexing="xy"), -1)


def numbers(vae, test):
    score, parts = evaluate(vae, test, PARTICLES), kl_decomposition(vae, test, draws=1)
    return {
        "rate": score["kl"]["value"],
        "distortion": -score["reconstruction"]["value"],
        "-log p(x)": -score["log_likelihood"]["value"],
        "active": score["active_units"]["z"],
        "I(x; z)": parts["mutual_information"]["value"],
        "aggregate": parts["aggregate_kl"]["value"],
    }


def from_scratch(splits, budget, seed):
    """A VAE at beta = 1 from the first step on, for as many epochs as the other one took to come there."""
    vae, epochs = model(VAE, splits, budget, seed + 100), budget["first"] + budget["each"] * betas(budget).index(1)
    objective, options = ELBO(1.0, "analytic"), {"batch_size": budget["batch_size"], "seed": seed + 100}
    fit(vae, splits, epochs=epochs, objective=objective, **options)
    return numbers(vae, subset(splits.test, ROWS)[:])


def by_class(splits, budget):
    """Of a conditional VAE with two latents, at each beta: E[x|z, y] of each class at the same z, (10, z, C, H, W)."""
    cvae, found, codes = model(ConditionalVAE, splits, budget, 0, num_classes=10), {}, None
    x, y = subset(splits.test, ROWS)[:], cvae.encode_labels(subset(splits.test, ROWS).y)
    every = torch.eye(10)[:, None].expand(-1, SQUARE**2, -1)
    for beta in rising(cvae, splits, budget):
        with torch.no_grad():
            turn = turning(cvae.q_z(x, y).mean, codes)
            codes = cvae.q_z(x, y).mean @ turn
            z = square(SQUARE, 1.5).flatten(0, 1) @ turn.T
            found[beta] = cvae.p_x(z.expand(10, -1, -1), every).mean.numpy()
    return found


def planes(found, y):
    """Frames: the decoded plane, and beside it the codes of the test images, but for one in a hundred at first."""
    limit = 1.1 * np.quantile(next(iter(found.values()))["codes"].abs().amax(1), 0.99)
    frames = []
    for beta, each in found.items():
        frame = plots.latent_plane(each["codes"].numpy(), y, each["plane"].numpy())
        frame.axes[1].set(xlim=(-limit, limit), ylim=(-limit, limit))
        frame.axes[1].set_aspect("equal", adjustable="box")
        frame.suptitle(rf"$\beta$ = {beta:.2g}: KL {each['rate']:.1f} nats, distortion {each['distortion']:.0f} nats")
        frames.append(frame)
    return frames


def curve(found, alone):
    points = {beta: (each["rate"], each["distortion"]) for beta, each in found.items()}
    return plots.rate_distortion(points, {r"$\beta$ = 1 from scratch": (alone["rate"], alone["distortion"])})


def nats(found, rows):
    names = {
        "rate": "KL(q(z|x) || p(z)), the sum of the next two",
        "I(x; z)": "I(x; z)",
        "aggregate": "KL(q(z) || p(z))",
    }
    lines = {label: (list(found), [each[name] for each in found.values()]) for name, label in names.items()}
    lines[f"log {rows}: no estimate of I is higher"] = ([min(found), max(found)], [math.log(rows)] * 2)
    return plots.curves(lines, r"$\beta$", "nats per datum", "x")


def strip(classes):
    """One z of the plane: a class a row, a beta a column, every fourth and the last."""
    shown = sorted({*list(classes)[::4], max(classes)})
    chosen = {rf"{beta:.2g}": classes[beta][:, SQUARE + 1, None] for beta in shown}
    first, *others = chosen
    named = {rf"$\beta$ = {first}": chosen[first]} | {each: chosen[each] for each in others}
    return plots.named_table([f"y = {y}" for y in range(10)], named)


def squares(classes, y):
    """Frames: what a class is at the same places of the plane."""
    return [plots.image_sheet(means[y], SQUARE, rf"$\beta$ = {beta:.2g}") for beta, means in classes.items()]


def answer(found, alone, classes, greys):
    """found: for each seed, by beta, the numbers of a continuation; alone: for each seed those from scratch."""
    first, last = min(found[0]), max(found[0])
    least = min(found[0], key=lambda beta: sum(bound(one[beta]) for one in found))
    lines = [
        Line("KL, nats", {at(beta): over(found, beta, "rate") for beta in (first, last)}),
        Line("Distortion, nats", {at(beta): over(found, beta, "distortion") for beta in (first, last)}),
        Line("Lowest -ELBO, nats", {at(least): spread([bound(one[least]) for one in found])}),
        *activity(found),
        *starts(found, alone),
        Line("-log p(x) by importance sampling, nats", {at(first): over(found, first, "-log p(x)", 1)}),
        *differences(classes, greys),
    ]
    return lines, [betas_table(found, least)]


def at(beta):
    return f"beta = {beta:.2g}"


def activity(found):
    """Up to which beta both latents are active in all seeds, and from which on none is in any."""
    both = list(takewhile(lambda beta: active(found, beta) == {2}, sorted(found[0])))
    none = list(takewhile(lambda beta: active(found, beta) == {0}, sorted(found[0], reverse=True)))
    yield Line("Both latents are active up to beta", {"": f"{both[-1]:.2g}" if both else "none"})
    yield Line("None is active from beta", {"": f"{none[-1]:.2g}" if none else "none"})


def starts(found, alone):
    """At beta = 1, beside trainings from scratch."""
    continued = [one[1] for one in found]
    rates = ([one["rate"] for one in of] for of in (continued, alone))
    bounds = ([bound(one) for one in of] for of in (continued, alone))
    for name, values in (("KL at beta = 1, nats", rates), ("-ELBO at beta = 1, nats", bounds)):
        yield Line(name, dict(zip(("continued", "from scratch"), map(spread, values), strict=True)))


def over(found, beta, key, digits=2):
    return spread([one[beta][key] for one in found], digits)


def betas_table(found, least):
    """Every second beta, and that of the least -ELBO."""
    heads = ["beta", "KL", "distortion", "-ELBO", "distortion + beta KL", "-log p(x)", "I(x; z)", "KL of q(z)"]
    rows = []
    for beta in sorted({*list(found[0])[::2], least}):
        weighted = spread([beta * one[beta]["rate"] + one[beta]["distortion"] for one in found])
        rows.append([f"{beta:.3g}", over(found, beta, "rate"), over(found, beta, "distortion")])
        rows[-1] += [spread([bound(one[beta]) for one in found]), weighted]
        rows[-1] += [over(found, beta, key) for key in ("-log p(x)", "I(x; z)", "aggregate")]
        rows[-1].append([one[beta]["active"] for one in found])
    return Table([*heads, "active units"], rows)


def differences(classes, greys):
    """How far images of one class at different z are apart, and, at the largest beta, from the mean of their class."""
    within = {at(beta): Number(float(apart(classes[beta])), None, 3) for beta in (min(classes), max(classes))}
    yield Line("Standard deviation of a pixel over images of one class (conditional VAE)", within)
    means = np.stack([greys[greys.y == y].mean(0).numpy() for y in range(10)])
    off = np.sqrt(np.square(classes[max(classes)] - means[:, None]).mean())
    yield Line(
        "Distance of these images from the mean of their class (root mean square)",
        {at(max(classes)): Number(float(off), None, 3)},
    )


def active(found, beta):
    """The numbers of active latents, of all seeds."""
    return {each[beta]["active"] for each in found}


def bound(each):
    """-ELBO at beta = 1."""
    return each["rate"] + each["distortion"]


def apart(images):
    return np.sqrt(images.var(1).mean())
