"""Perceptron, convolutions, or a label beside the image: which VAE of one size is worth most, with which activation?"""

from functools import partial
from statistics import mean

import torch
from pyro import poutine
from torch import nn

from pyrovae import VAE, data, evaluate, fit, plots
from pyrovae.data import Split, subset
from pyrovae.evaluation.evaluate import scores
from pyrovae.experiments import OVER_BOTH, OVER_SEEDS, Findings, spread, table, with_error
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
    return Findings(told(found, budget) + "\n\n" + told_of_activations(by_activation, budget), figures, ERRORS)


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


def told(found, budget):
    nats = {kind: mean(-one["log p(x)"].mean().item() for one in of) for kind, of in found.items()}
    best, given = min(nats, key=nats.get), mean(-one["log p"].mean().item() for one in found[CONDITIONAL])
    heads = ["network", "bound and log p of", "weights", "seconds", "-ELBO", "KL", "-log p", "-log p(x)", "gain in it"]
    return (
        f"Of networks of about {round(found['perceptron'][0]['weights'], -3):,} weights and {budget['epochs']} epochs "
        f"each, {best} has most log p(x): -log p(x) is "
        f"{', '.join(f'{nats[kind]:.2f} ({kind})' for kind in sorted(nats, key=nats.get))}. The conditional model "
        f"codes an image whose label is known in {given:.2f} nats.\n\n"
        f"Nats per datum of at most {ROWS} test images, {PARTICLES} importance samples. The conditional model's bound "
        "is one on log p(x|y), the image given its label, which is no rival of log p(x); its log p(x) = log sum_y "
        "p(y) p(x|y) is, and stands beside the others'. The gain is over the perceptron on the same images.\n\n"
        + table(heads, [row_of(kind, of, found["perceptron"]) for kind, of in found.items()])
    )


def row_of(kind, of, base):
    gains = [one["log p(x)"] - other["log p(x)"] for one, other in zip(of, base, strict=True)]
    numbers = {"-ELBO": "elbo", "KL": "kl", "-log p": "log p", "-log p(x)": "log p(x)"}
    return [
        kind,
        "x given y" if kind == CONDITIONAL else "x",
        f"{of[0]['weights']:,}",
        f"{mean(one['seconds'] for one in of):.0f}",
        *(spread([abs(one[name].mean().item()) for one in of]) for name in numbers.values()),
        "" if of is base else with_error(gains),
    ]


def told_of_activations(found, budget):
    best, *_, last = found
    apart = mean(found[last]) - mean(found[best])
    return (
        f"Of the activations {best} is best and {last} last, {apart:.2f} nats apart, of perceptrons of "
        f"{' and '.join(map(str, budget['deep']))} units after {budget['epochs_each']} epochs at one learning rate "
        f"({len(found[best])} seeds); which is ahead so early may be which learns "
        "fastest.\n\n" + table(["activation", "-ELBO"], [[kind, spread(each)] for kind, each in found.items()])
    )
