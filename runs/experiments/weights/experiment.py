"""With few images, can a prior on the decoder's weights replace early stopping on validation images?"""

from functools import partial

import torch

from pyrovae import VAE, Training, data, plots
from pyrovae.data import Split, Splits
from pyrovae.experiments import OVER_BOTH, Findings, Line, Table, repeated, with_error
from pyrovae.models import BayesianVAE
from pyrovae.networks import MLP
from pyrovae.programs.importance import log_likelihood

BUDGETS = {
    "digits": {"sizes": (100, 300, 1000), "steps": 1000},
    "mnist": {"sizes": (100, 300, 1000, 3000), "steps": 1500},
}
TEST, PARTICLES, DRAWS, BATCH = 300, 200, 10, 100  # images to validate and as many to test; of z; of w; rows
LATENTS, NETWORK = 10, partial(MLP, hidden=(100,))
CAPTION = (
    "log p(x) of test images for models trained on few images and on more: a VAE after its last epoch and at the "
    "epoch that validation images chose, and a BayesianVAE, which needs no validation images."
)
NOTES = (
    "log p(x) of {images} test images, in nats per datum, a lower bound in the mean with {samples} samples: {each} "
    "of z at each of {draws} draws of the weights w, or all at one w. An average over more draws of w is higher in "
    "the mean. Each seed has training images of its own. In the picture, whose bars are the same ±, points for the "
    "same number of images stand side by side.",
)


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name)
    valid, test = (fixed(part, TEST, 0) for part in (splits.valid, splits.test))
    found = {}
    for size in budget["sizes"]:
        for seed in range(seeds):
            train = fixed(splits.train, size, seed)
            given = point(train, valid, test, budget["steps"], seed) | bayesian(train, test, budget["steps"], seed)
            for kind, log_p in given.items():
                found.setdefault(kind, {}).setdefault(size, []).append(log_p)
            print(
                f"{size} images, seed {seed}", *(f"{kind} {each.mean():.2f}" for kind, each in given.items()), sep=", "
            )
    lines = {
        kind: curve(by_size, 1.1 ** (place - (len(found) - 1) / 2))
        for place, (kind, by_size) in enumerate(found.items())
    }
    axes = {"x": "training images", "y": "log p(x) of test images (nats)", "log": "x", "below": True}
    settings = {"images": TEST, "samples": DRAWS * PARTICLES, "each": PARTICLES, "draws": DRAWS}
    return Findings(*answer(found), {"log-p-by-images": plots.curves(lines, **axes)}, settings, OVER_BOTH)


def curve(by_size, factor):
    """Points and their errors, those of one size side by side: some are nearly equal."""
    means = [repeated(each) for each in by_size.values()]
    return [size * factor for size in by_size], *(
        [each[name] for each in means] for name in ("value", "standard_error")
    )


def fixed(split, rows, seed):
    """So many rows, drawn by the seed and binarised once and for all."""
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:rows]
    return Split(split.x[drawn], None, "fixed").binarize_once()


def point(train, valid, test, steps, seed):
    """log p(x) of a VAE at the end of its training, and at the epoch that is the best on validation images."""
    torch.manual_seed(seed)
    vae, epochs = VAE(train.event_shape, LATENTS, encoder=NETWORK, decoder=NETWORK), steps * BATCH // len(train)
    training = Training(vae, Splits("few", train, valid), epochs=epochs, batch_size=BATCH, patience=epochs, seed=seed)
    for _ in training:
        if training.finished:  # and it has not yet gone back to the best
            last = score(vae, test)
    return {"VAE, last epoch": last, "VAE, best epoch": score(vae, test)}


def bayesian(train, test, steps, seed):
    torch.manual_seed(seed)
    vae = BayesianVAE(train.event_shape, LATENTS, len(train), encoder=NETWORK, decoder=NETWORK)
    list(Training(vae, train, epochs=steps * BATCH // len(train), batch_size=BATCH, seed=seed))
    return {
        "BayesianVAE, posterior predictive": vae.posterior_predictive(test, DRAWS, PARTICLES)[0],
        "BayesianVAE, mean of q(w)": score(vae.at(vae.q_w().mean), test),
    }


def score(vae, test):
    """log p(x) of each test image, by as many samples as the posterior predictive has."""
    return log_likelihood(vae, test, DRAWS * PARTICLES)[0]


def answer(found):
    last, best, predictive, at_mean = found
    sizes = list(found[last])
    rows = [[size, *(with_error(found[kind][size]) for kind in found)] for size in sizes]
    lines = []
    for size in (sizes[0], sizes[-1]):
        gains = {f"over {kind}": gain(found, size, predictive, kind) for kind in (last, best, at_mean)}
        lines.append(Line(f"Gain of the posterior predictive with {size:,} images, nats", gains))
    return lines, [Table(["training images", *found], rows)]


def gain(found, size, one, other):
    return with_error([mine - its for mine, its in zip(found[one][size], found[other][size], strict=True)])
