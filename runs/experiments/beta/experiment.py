"""How does beta, the weight of the KL, change what a VAE encodes and draws, and what is each beta's price in nats?"""

import math
from functools import partial
from itertools import takewhile

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import subset
from pyrovae.evaluation.information import decompose
from pyrovae.experiments import Findings, spread, table
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


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name, valid=0)
    found = [plain(splits, budget, seed) for seed in range(seeds)]
    alone = [from_scratch(splits, budget, seed) for seed in range(seeds)]
    classes = by_class(splits, budget)
    rows = min(ROWS, len(splits.test))
    return Findings(
        told(found, alone, rows) + "\n\n" + told_of_classes(classes, data.load(name, binarize="none", valid=0).train),
        {
            "LatentSpace": planes(found[0], splits.test.y[:rows].numpy()),
            "rate-distortion": curve(found[0], alone[0]),
            "information": nats(found[0], rows),
            "classes": strip(classes),
        }
        | {f"digit{y}": squares(classes, y) for y in range(10)},
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
    score, parts = evaluate(vae, test, PARTICLES), decompose(vae, test, draws=1)
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


def told(found, alone, rows):
    """found: for each seed, by beta, the numbers of a continuation; alone: for each seed those from scratch."""
    first, last = min(found[0]), max(found[0])
    least = min(found[0], key=lambda beta: sum(bound(each[beta]) for each in found))
    return (
        f"As beta rises from {first:.2g} to {last:.2g} the KL goes from {over(found, first, 'rate')} to "
        f"{over(found, last, 'rate')} nats and the distortion from {over(found, first, 'distortion')} to "
        f"{over(found, last, 'distortion')}; both latents are active {span(found)}. The distortion is -E_q[log "
        f"p(x|z)]; its sum with the KL, -ELBO, is least, in the mean, at beta = {least:.2g}: "
        f"{spread([bound(each[least]) for each in found])} nats per image. Later models have had more epochs, and all "
        "are scored on test images.\n\nThis is a continuation: one training, in which each model starts from the one "
        f"before (warm start). At beta = 1 it has a KL of {over(found, 1, 'rate')} and a -ELBO of "
        f"{spread([bound(each[1]) for each in found])}; trained there from scratch for as many epochs, "
        f"{spread([each['rate'] for each in alone])} and "
        f"{spread([bound(each) for each in alone])}.\n\n{betas_table(found, least)}\n\n{of_bounds(found, first)}\n\n"
        f"I(x; z) and the KL of the aggregate posterior q(z) to the prior are of {rows} images: no estimate of I "
        f"exceeds log {rows} = {math.log(rows):.2f}, and near it I is too low and the other as much too high."
    )


def active(found, beta):
    """The numbers of active latents, of all seeds."""
    return {each[beta]["active"] for each in found}


def span(found):
    """In all seeds, from the least beta on; and from where on none is in any."""
    both = list(takewhile(lambda beta: active(found, beta) == {2}, sorted(found[0])))
    none = list(takewhile(lambda beta: active(found, beta) == {0}, sorted(found[0], reverse=True)))
    first = f"up to beta = {both[-1]:.2g}" if both else "at no beta"
    return f"{first}, {f'none from {none[-1]:.2g} on' if none else 'one or both at every beta'}"


def over(found, beta, key, digits=2):
    return spread([each[beta][key] for each in found], digits)


def bound(each):
    """-ELBO at beta = 1."""
    return each["rate"] + each["distortion"]


def betas_table(found, least):
    """Every second beta, and that of the least -ELBO."""
    heads = ["beta", "KL", "distortion", "-ELBO", "distortion + beta KL", "-log p(x)", "I(x; z)", "KL of q(z)"]
    rows = []
    for beta in sorted({*list(found[0])[::2], least}):
        weighted = spread([beta * each[beta]["rate"] + each[beta]["distortion"] for each in found])
        rows.append([f"{beta:.3g}", over(found, beta, "rate"), over(found, beta, "distortion")])
        rows[-1] += [spread([bound(each[beta]) for each in found]), weighted]
        rows[-1] += [over(found, beta, key) for key in ("-log p(x)", "I(x; z)", "aggregate")]
        rows[-1] += [", ".join(str(each[beta]["active"]) for each in found)]
    return table([*heads, "active units"], rows)


def of_bounds(found, beta):
    """Of which log p(x) the ELBO at another beta is no bound."""
    weighted = spread([each[beta]["distortion"] + beta * each[beta]["rate"] for each in found], 1)
    return (
        f"Nats per image; -log p(x) by {PARTICLES} importance samples. At beta > 1, distortion + beta KL is a bound on "
        f"-log p(x), but a worse one than -ELBO; at beta < 1 it bounds nothing of this model: at {beta:.2g} it is "
        f"{weighted}, where importance sampling finds {over(found, beta, '-log p(x)', 1)}. Divided by beta it is "
        "-ELBO of the likelihood p(x|z)^(1/beta) / Z(z), but for log Z(z). Of a normal that is the one of variance "
        "beta s², and Z a constant; of a Bernoulli Z(z) depends on z. At beta > 1 it is above 1, and what was "
        "maximised is no bound on the log p(x) of that model."
    )


def told_of_classes(classes, greys):
    first, last = classes[min(classes)], classes[max(classes)]
    means = np.stack([greys[greys.y == y].mean(0).numpy() for y in range(10)])
    return (
        f"Conditional VAE, one training: the {SQUARE**2} images of a class at the same z differ by {apart(first):.3f} "
        f"of the grey scale at beta = {min(classes):.2g}, by {apart(last):.3f} at {max(classes):.2g} (standard "
        "deviation of a pixel, root mean square); there they are "
        f"{np.sqrt(np.square(last - means[:, None]).mean()):.3f} from the mean of their class (root mean square)."
    )


def apart(images):
    return np.sqrt(images.var(1).mean())
