"""Which VAE of one size has the highest log p(x): MLP, convolutional or conditional? And which activation?"""

from functools import partial
from statistics import mean

import torch
from pyro import poutine
from torch import nn

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import Split, subset
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OVER_BOTH, OVER_SEEDS, Findings, Line, Number, Table, spread, with_error
from pyrovae.models import ConditionalVAE
from pyrovae.networks import MLP, Conv
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.programs.importance import reconstruct
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {
        "latents": 8,
        "hidden": 200,
        "conv": {"channels": (16,), "hidden": 55},
        "epochs": 50,
        "batch_size": 64,
        "deep": (100, 100),
        "epochs_each": 30,
    },
    "mnist": {
        "latents": 20,
        "hidden": 400,
        "conv": {"channels": (16, 32), "hidden": 185},
        "epochs": 12,
        "batch_size": 200,
        "deep": (200, 200),
        "epochs_each": 4,
    },
}
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Softplus)
ROWS, PARTICLES, LEAST = 1000, 100, 3  # test images, and z for each; seeds for each activation
CONDITIONAL = "conditional"
ERRORS = f"of a gain {OVER_BOTH}; else {OVER_SEEDS}"
CAPTION = "Images drawn by three VAEs of about the same size; in the last panel each row is drawn for one digit class."
NOTES = (
    "Nats per datum on at most {images} test images, {samples} importance samples, {epochs} epochs. The conditional "
    "model knows the label: its ELBO and log p are those of log p(x|y), which cannot be compared with log p(x). Its "
    "log p(x) = log sum_y p(y) p(x|y) can. The gain is over the perceptron on the same images.",
    "-ELBO of perceptrons with {deep} units after {early} epochs at one learning rate, over {repetitions} seeds. So "
    "early, an activation may be ahead only because it learns faster.",
)


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name)
    test = subset(splits.test, ROWS)
    found, made = {}, {}
    for seed in range(seeds):
        for kind, build in models(splits.event_shape, splits.num_classes, budget).items():
            vae, seconds = trained(build, splits, budget, budget["epochs"], seed)
            found.setdefault(kind, []).append(measured(vae, kind, test) | {"seconds": seconds})
            made.setdefault(kind, vae)
            print(f"{kind}, seed {seed}: {found[kind][-1]['elbo'].mean():.2f}", flush=True)
    by_activation = activations(splits, budget, max(seeds, LEAST))
    figures = {
        "samples": samples(made),
        "reconstructions": reconstructions(made, splits.test),
        "activations": plots.dots(by_activation, "-ELBO, test (nats)"),
    }
    settings = {"images": ROWS, "samples": PARTICLES, "epochs": budget["epochs"], "early": budget["epochs_each"]}
    settings |= {"deep": " and ".join(map(str, budget["deep"])), "repetitions": max(seeds, LEAST)}
    return Findings(*answer(found, by_activation), figures, settings, ERRORS)


def models(shape, classes, budget):
    perceptron, convolutions = partial(MLP, hidden=budget["hidden"]), partial(Conv, **budget["conv"])
    plain = partial(VAE, shape, budget["latents"])
    conditional = partial(ConditionalVAE, shape, budget["latents"], classes)
    return {
        "perceptron": partial(plain, encoder=perceptron, decoder=perceptron),
        "convolutional": partial(plain, encoder=convolutions, decoder=convolutions),
        CONDITIONAL: partial(conditional, encoder=perceptron, decoder=perceptron),
    }


def trained(build, splits, budget, epochs, seed):
    torch.manual_seed(seed)
    vae = build()
    steps = epochs * -(-len(splits.train) // budget["batch_size"])
    options = {"batch_size": budget["batch_size"], "learning_rate": 2e-3, "lr_schedule": cosine, "seed": seed}
    records = fit(vae, splits.train, epochs=epochs, objective=ELBO(WarmUp(steps // 3)), **options)
    return vae, sum(each["seconds"] for each in records)


def measured(vae, kind, test):
    """Per datum: bounds and log-likelihoods of x, or of x given its label; and of x alone."""
    table = scores(vae, test, PARTICLES, 0)[0]
    of_y = table.get("observed.y", 0.0)  # log p(y), which is not of the image
    found = {"elbo": table["elbo"] - of_y, "log p": table["log_likelihood"] - of_y, "kl": table["kl"]}
    found["log p(x)"] = summed_over_labels(vae, test) if kind == CONDITIONAL else found["log p"]
    return found | {"weights": sum(each.numel() for each in vae.parameters())}


def summed_over_labels(vae, test):
    """log p(x) = log sum_y p(x, y): of the conditional model what a model without labels has, too."""
    each = [
        scores(vae, Split(test.x, torch.full_like(test.y, y)), PARTICLES, 0)[0]["log_likelihood"]
        for y in range(vae.label_shape[0])
    ]
    return torch.stack(each).logsumexp(0)


def activations(splits, budget, seeds):
    """-ELBO on the test images for each activation, of one architecture, over the seeds."""
    found = {}
    for activation in ACTIVATIONS:
        network = partial(MLP, hidden=budget["deep"], activation=activation)
        build = partial(VAE, splits.event_shape, budget["latents"], encoder=network, decoder=network)
        for seed in range(seeds):
            vae, _ = trained(build, splits, budget, budget["epochs_each"], seed)
            found.setdefault(activation.__name__, []).append(-evaluate(vae, splits.test, 2)["elbo"]["value"])
        print(f"{activation.__name__}: {spread(found[activation.__name__])}", flush=True)
    return dict(sorted(found.items(), key=lambda each: mean(each[1])))


@torch.no_grad()
def samples(made):
    """E[x|z] for z ~ p(z): of the conditional model a class a row."""
    torch.manual_seed(0)
    panels = {}
    for kind, vae in made.items():
        labels = {"y": vae.encode_labels(torch.arange(10).repeat_interleave(6))} if kind == CONDITIONAL else {"n": 60}
        p_x = poutine.trace(vae.model).get_trace(**labels).nodes["x"]["fn"]
        panels[kind + (", a class a row" if kind == CONDITIONAL else "")] = p_x.mean.unflatten(0, (10, 6)).numpy()
    return plots.image_table(panels)


def reconstructions(made, test):
    rows = [test.y.tolist().index(digit) for digit in range(10)]
    x, y = test[rows], test.y[rows]
    torch.manual_seed(0)
    drawn = {kind: reconstruct(vae, x, y if kind == CONDITIONAL else None).numpy() for kind, vae in made.items()}
    return plots.image_rows({"test image": x.numpy()} | drawn)


def answer(found, by_activation):
    nats = {kind: spread([-one["log p(x)"].mean().item() for one in of]) for kind, of in found.items()}
    ranked = {kind: nats[kind] for kind in sorted(nats, key=nats.get)}
    heads = ["network", "bound and log p of", "weights", "seconds", "-ELBO", "KL", "-log p", "-log p(x)", "gain in it"]
    rows = [row_of(kind, of, found["perceptron"]) for kind, of in found.items()]
    activations = [[kind, spread(values)] for kind, values in by_activation.items()]
    return [Line("-log p(x), nats", ranked)], [Table(heads, rows), Table(["activation", "-ELBO"], activations)]


def row_of(kind, of, base):
    gains = [one["log p(x)"] - other["log p(x)"] for one, other in zip(of, base, strict=True)]
    return [
        kind,
        "x given y" if kind == CONDITIONAL else "x",
        of[0]["weights"],
        Number(mean(one["seconds"] for one in of), None, 0),
        *(spread([abs(one[name].mean().item()) for one in of]) for name in ("elbo", "kl", "log p", "log p(x)")),
        "" if of is base else with_error(gains),
    ]
