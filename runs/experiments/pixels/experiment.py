"""What does each model of a pixel draw, black-and-white or grey, and what does its score measure?"""

import math
from functools import partial
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import softplus

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import Split, subset
from pyrovae.evaluation.bits import bits_per_dimension
from pyrovae.experiments import Findings, Line, Number, Table, spread
from pyrovae.likelihoods import Bernoulli, ContinuousBernoulli, DiscretizedLogistic, DiscretizedLogisticMixture, Normal
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.programs.importance import reconstruct
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {"latents": 8, "hidden": 200, "epochs": 40, "batch_size": 64},
    "mnist": {"latents": 20, "hidden": 400, "epochs": 8, "batch_size": 200},
}
PIXELS = {  # what is made of the grey images, and the model of what is made
    "Bernoulli": ("dynamic", Bernoulli),
    "cross-entropy of greys": ("none", partial(Bernoulli, soft_targets=True)),
    "continuous Bernoulli": ("dequantize", ContinuousBernoulli),
    "normal, $s = 1$": ("dequantize", Normal),
    "normal, one $s$": ("dequantize", partial(Normal, scale=0.3, learn="one")),
    "normal, $s$ by pixel": ("dequantize", partial(Normal, scale=0.3, learn="per-input", min_scale=1e-2)),
    "discretised logistic": ("none", DiscretizedLogistic),
    "mixture of 3 logistics": ("none", partial(DiscretizedLogisticMixture, components=3)),
}
SOFT = "cross-entropy of greys"
ROWS, PARTICLES = 1000, 50  # test images, and z for each
CAPTION = (
    "Three test images, and what eight models of a pixel draw: "
    "images x ~ p(x|z) on the left, means E[x|z] on the right."
)
NOTES = (
    "Nats per datum on at most {images} test images, {samples} importance samples. Scores with different measures "
    "cannot be compared: a mass over binary values and one over 256 levels belong to different data. Bits per "
    "dimension are for the bytes, by a mass over them or, as an upper bound, by a density of bytes with uniform "
    "noise. The squared error is that of E[x|z], z ~ q(z|x), to the same grey images, whatever the encoder sees of "
    "them: a black-and-white draw, greys, or greys with noise.\n\n"
    "The cross-entropy of greys is no likelihood: over the 256 levels of a pixel its terms sum to more than one. The"
    " line above compares the bits that it seems to need (first seed) with those after division by this sum, in the "
    "mean over the images and z ~ q(z|x), an upper bound. It is never below the entropy of the pixels as "
    "probabilities, sum_i h(x_i): so much is left at a perfect reconstruction, since it is the least that any model "
    "of their black-and-white draws can have.",
)


def experiment(name, seeds):
    budget, greys, found, made = BUDGETS[name], data.load(name, binarize="none"), {}, {}
    for seed in range(seeds):
        for kind, (binarize, likelihood) in PIXELS.items():
            splits = data.load(name, binarize=binarize)
            vae, records = trained(splits, likelihood, budget, seed)
            found.setdefault(kind, []).append(measured(vae, splits.test, subset(greys.test, ROWS)[:]))
            made.setdefault(kind, (vae, records))
            print(f"{kind}, seed {seed}: {found[kind][-1]['-ELBO']:.2f}", flush=True)
    losses = {
        kind: ([each["epoch"] for each in records], [each["valid_loss"] for each in records])
        for kind, (_, records) in made.items()
    }
    models = {kind: vae for kind, (vae, _) in made.items()}
    figures = {
        "pixels": drawn(models, data.load(name).test, greys.test, 3, 3.0),
        "more-pixels": drawn(models, data.load(name).test, greys.test, 8, 6.4),
        "losses": plots.curves_apart(losses, "epoch", "-ELBO, validation (nats)"),
    }
    lines, tables = answer(found, models[SOFT], subset(greys.test, ROWS)[:])
    return Findings(lines, tables, figures, {"images": ROWS, "samples": PARTICLES})


def trained(splits, likelihood, budget, seed):
    torch.manual_seed(seed)
    network = partial(MLP, hidden=budget["hidden"])
    vae = VAE(splits.event_shape, budget["latents"], likelihood=likelihood, encoder=network, decoder=network)
    steps = budget["epochs"] * -(-len(splits.train) // budget["batch_size"])
    options = {"epochs": budget["epochs"], "batch_size": budget["batch_size"], "lr_schedule": cosine, "seed": seed}
    return vae, fit(vae, splits, objective=ELBO(WarmUp(steps // 5)), **options)


def measured(vae, test, greys):
    """The bound and log p(x) in the measure of the model; bits where it has such; what its means miss of the greys."""
    x = test[: len(greys)]
    numbers = evaluate(vae, Split(x), PARTICLES)
    torch.manual_seed(0)
    log_p, measure = numbers["log_likelihood"]["value"], numbers["measure"]
    scale = getattr(vae.likelihood, "scale", None)
    return {
        "measure": measure,
        "-ELBO": -numbers["elbo"]["value"],
        "-log p": -log_p,
        "bits": bits(log_p, greys[0].numel(), measure, test.binarize == "dequantize"),
        "squares": (reconstruct(vae, x) - greys).square().mean().item(),
        "scale": None if scale is None else scale.item(),
    }


def bits(log_p, dimensions, measure, dequantized):
    """Bits per dimension, where the measure has such a unit."""
    try:
        return bits_per_dimension(log_p, dimensions, measure, dequantized)
    except ValueError:
        return None


@torch.no_grad()
def drawn(models, binary, greys, count, across):
    """For each model draws of p(x|z), and its means, at the same z ~ p(z); test images, binary and grey, above."""
    draws, means = [binary[:count].numpy()], [greys[:count].numpy()]
    for vae in models.values():
        torch.manual_seed(0)
        p_x = vae.p_x(vae.p_z().sample((count,)))
        draws.append(p_x.sample().numpy())
        means.append(p_x.mean.numpy())
    panels = {"draws $x \\sim p(x|z)$": np.stack(draws), "means $E[x|z]$": np.stack(means)}
    return plots.named_table(["test images", *map(halved, models)], panels, across)


def halved(name):
    """In two lines, broken at the space that is nearest to the middle; as it is where there is none."""
    spaces = [place for place, letter in enumerate(name) if letter == " "]
    at = min(spaces, key=lambda place: abs(place - len(name) / 2), default=len(name))
    return "\n".join(filter(None, (name[:at], name[at + 1 :])))


def answer(found, vae, greys):
    bits = {kind: spread([one["bits"] for one in of], 3) for kind, of in found.items() if of[0]["bits"] is not None}
    squares = {kind: Number(mean(one["squares"] for one in of), None, 4) for kind, of in found.items()}
    rows = []
    for kind, of in found.items():
        rows.append(
            [kind, of[0]["measure"], spread([one["-ELBO"] for one in of]), spread([one["-log p"] for one in of])]
        )
        scale = "" if of[0]["scale"] is None else spread([one["scale"] for one in of], 3)
        rows[-1] += [bits.get(kind, "none"), squares[kind], scale]
    heads = ["pixels", "the score is a", "-ELBO", "-log p", "bits per dimension", "squared error", "s"]
    ranked = {kind: bits[kind] for kind in sorted(bits, key=bits.get)}
    return [Line("Bits per dimension", ranked), *of_greys(vae, found, greys)], [Table(heads, rows)]


def of_greys(vae, found, greys):
    """What the cross-entropy of greys looks like, and what it is."""
    score = found[SOFT][0]["-ELBO"]  # of the same training as the sums
    read = Number(score / (greys[0].numel() * math.log(2)), None, 3)
    coded = Number(normalised(vae, score, greys), None, 2)
    yield Line("Cross-entropy of greys, bits per dimension", {"as it looks": read, "normalised": coded})
    yield Line("Entropy of the pixels as probabilities, nats", {"": Number(entropy(greys))})


def entropy(greys):
    """The mean of sum_i -x_i log x_i - (1 - x_i) log(1 - x_i)."""
    return torch.distributions.Bernoulli(greys).entropy().flatten(1).sum(1).mean().item()


@torch.no_grad()
def normalised(vae, score, greys, at_once=100):
    """Bits per dimension of p(k|z) = e^(h k/255) / sum_j e^(h j/255), whose cross-entropy has the sum left out."""
    torch.manual_seed(0)
    h = vae.decoder(vae.q_z(greys).sample()).double()
    levels = torch.arange(256, dtype=h.dtype) / 255
    sums = torch.cat([torch.logsumexp(each[..., None] * levels, -1) for each in h.split(at_once)]) - softplus(h)
    nats = score + sums.flatten(1).sum(1).mean().item()
    return nats / (greys[0].numel() * math.log(2))
