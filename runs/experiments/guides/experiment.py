"""What separates the ELBO from log p(x) on one model: the amortised encoder, or the guide's family?"""

import time
from functools import partial
from statistics import mean

import torch
from pyro import poutine

from pyrovae import VAE, anneal, data, fit, gaps, plots, refine
from pyrovae.data import subset
from pyrovae.evaluation.diagnostics import by_datum
from pyrovae.evaluation.pareto_k import usable
from pyrovae.experiments import OVER_BOTH, OVER_SEEDS, Findings, Line, Number, Table, spread, with_error
from pyrovae.guides import IAF, DiagonalNormal, FullRankNormal, Planar
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.programs.pair import pair
from pyrovae.training.rates import cosine

BUDGETS = {
    "digits": {
        "learning_rate": 2e-3,
        "latents": 8,
        "hidden": 100,
        "epochs": 60,
        "batch_size": 128,
        "rows": 256,
        "temperatures": 25,
    },
    "mnist": {
        "learning_rate": 2e-3,
        "latents": 20,
        "hidden": 300,
        "epochs": 15,
        "batch_size": 200,
        "rows": 256,
        "temperatures": 200,
    },
}
FAMILIES = {
    "diagonal": DiagonalNormal,
    "full-rank": FullRankNormal,
    "planar flow": partial(Planar, transforms=4),
    "IAF": IAF,
}
SEEN = {kind: family for kind, family in FAMILIES.items() if kind != "planar flow"}  # which scores its own draws alone
REFINED, STEPS, RATE = "diagonal, refined", 40, 0.05  # steps of Adam for each datum
PARTICLES, FEW = 300, 40  # of z for each image; for the gaps, whose every chunk of particles refines anew
CHAINS = 8  # of annealed importance sampling
SHOWN = (0.5, 0.9, 0.98)  # quantiles of the diagonal guide's KL, at which the pictures have their data

ERRORS = f"in the columns gap and gain {OVER_BOTH}; else {OVER_SEEDS}"
HEADS = ["guide", "ELBO", "gap", "gain", "amortisation gap", "approximation gap", "log p(x), own"]
HEADS += [f"% with k-hat > {usable(PARTICLES):.2f}", "seconds", "ms per datum"]
CAPTION = (
    "The exact posterior of three images (blue), and the densities of four guides (orange contours), for a model "
    "with two latents. Above each panel is KL(guide || posterior)."
)
NOTES = (
    "The model was trained with a diagonal guide. Then its decoder was frozen, and each family learned a new guide "
    "in {epochs} epochs. Nats per datum on {rows} test images. log p(x) of the model is the largest of these lower "
    "bounds: the guides' estimates with {samples} importance samples each, which are low where k-hat is above "
    "{limit:.2f}, and annealed importance sampling with {chains} chains of {temperatures} temperatures. The gap is "
    "the distance from it to the ELBO, and the gain is in ELBO over the diagonal guide. The amortisation gap is what"
    " {steps} steps of Adam on each datum's own proposal win back (a lower bound); the approximation gap is the "
    "rest. `diagonal, refined` is a guide that makes these steps. Seconds are those of the guide's training, "
    "milliseconds those of one proposal.",
    "Guide and model trained together. log p(x), by the guide's own samples, belongs to a different model in each "
    "row. A family that contains the diagonal one, as the full-rank family does, can be behind it on training images"
    " only until it has converged.\n\n"
    "In the picture the model is frozen, and the guides are trained anew. The posterior is computed on a grid. The "
    "contours are at 1/2, 1/10 and 1/100 of a guide's highest density. The three images are at the quantiles {shown}"
    " of the KL of the first guide.",
)


def experiment(name, seeds):
    budget, splits = BUDGETS[name], data.load(name, valid=0)
    frozen, joint, annealed = [], [], []
    for seed in range(seeds):
        base, *joined = (trained(splits, budget, seed, budget["latents"], family) for family in FAMILIES.values())
        joint.append(
            measured(dict(zip(FAMILIES, (base, *joined), strict=True)), subset(splits.test, budget["rows"])[:])
        )
        guides = with_refined(on_one_model(base, splits, budget, seed))
        frozen.append(measured(guides, subset(splits.test, budget["rows"])[:], lost=True))
        x, temperatures = subset(splits.test, budget["rows"])[:], budget["temperatures"]
        annealed.append(anneal(base[0], x, CHAINS, temperatures, seed=seed).value)
        print(*(f"{kind}: {each['elbo'].mean():.2f}" for kind, each in frozen[-1].items()), sep=", ", flush=True)
    settings = {key: budget[key] for key in ("epochs", "rows", "temperatures")}
    settings |= {"samples": PARTICLES, "limit": usable(PARTICLES), "chains": CHAINS, "steps": STEPS}
    settings["shown"] = ", ".join(f"{share:g}" for share in SHOWN)
    return Findings(*answer(frozen, annealed, joint), {"posteriors": pictures(splits, budget)}, settings, ERRORS)


def trained(splits, budget, seed, latents, family, decoder=None):
    """A VAE with this guide family, and the seconds of its training; of a decoder that is given the guide alone."""
    torch.manual_seed(seed)
    network = partial(MLP, hidden=budget["hidden"])
    vae = VAE(splits.event_shape, latents, guide=family, encoder=network, decoder=decoder or network)
    steps = budget["epochs"] * -(-len(splits.train) // budget["batch_size"])
    beta = 1.0 if decoder else WarmUp(steps // 5)  # a decoder that stands still cannot lose its latents
    # Analytic: less variance, and the same for all families whose KL has a closed form.
    options = {"epochs": budget["epochs"], "batch_size": budget["batch_size"], "lr_schedule": cosine, "seed": seed}
    records = fit(vae, splits, learning_rate=budget["learning_rate"], objective=ELBO(beta, "analytic"), **options)
    print(f"{type(vae.family).__name__}: {records[-1]['loss']:.2f}", flush=True)
    return vae, sum(each["seconds"] for each in records)


def on_one_model(base, splits, budget, seed, families=FAMILIES):
    """The generative program stands still; each family learns its guide of it from the beginning."""
    decoder = base[0].decoder.requires_grad_(False)
    (latents,) = base[0].latent_shape
    return {kind: trained(splits, budget, seed, latents, family, decoder) for kind, family in families.items()}


def with_refined(guides):
    vae, seconds = guides["diagonal"]
    return guides | {REFINED: ((vae.model, refine(vae.model, vae.guide, STEPS, RATE)), seconds)}


def measured(guides, x, lost=False):
    """For each guide what its weights say of each datum; milliseconds for a proposal; what the encoder costs."""
    found = {}
    for kind, (programs, seconds) in guides.items():
        found[kind] = by_datum(programs, x, PARTICLES) | {"seconds": seconds, "ms": milliseconds(programs, x)}
        if lost and kind != REFINED:  # of the refined one it is 0
            found[kind]["encoder"] = gaps(programs, x, STEPS, RATE, FEW)["amortisation_gap"]
    return found


def milliseconds(programs, x):
    """Of a proposal, for each datum."""
    begun = time.perf_counter()
    with torch.no_grad():
        pair(programs)[1](x)
    return 1e3 * (time.perf_counter() - begun) / len(x)


def log_likelihood(found, annealed):
    """log p(x) of one model: of estimates that are lower bounds in the mean, the largest."""
    return max((annealed, *(one["log_likelihood"] for one in found.values())), key=torch.mean)


def pictures(splits, budget):
    """With two latents the posterior can be seen, and log p(x) is a sum over a grid of z."""
    base = trained(splits, budget, 0, 2, DiagonalNormal)
    x = subset(splits.test, budget["rows"])[:]
    x = x[by_datum(base[0], x, PARTICLES)["kl"].argsort()[[int(share * len(x)) for share in SHOWN]]]
    guides = with_refined(on_one_model(base, splits, budget, 0, SEEN))
    line = torch.linspace(-6, 6, 481)
    joint = on_grid(line, lambda z: (base[0].p_z().log_prob(z) + base[0].p_x(z).log_prob(x.unsqueeze(1))).T)
    log_p = joint.flatten(1).logsumexp(1) + 2 * (line[1] - line[0]).log()
    panels = {}
    for kind, (programs, _) in guides.items():
        kl = log_p - by_datum(programs, x, PARTICLES)["elbo"]
        panels[kind] = density(programs, x, line), [f"KL {each:.2f} nats" for each in kl]
    return plots.posteriors(x.numpy(), line.numpy(), (joint - joint.amax((1, 2), keepdim=True)).exp().numpy(), panels)


def density(programs, x, line):
    """q(z|x) on the grid. (N, z2, z1)"""
    torch.manual_seed(0)
    q = poutine.trace(pair(programs)[1]).get_trace(x).nodes["z"]["fn"]
    return on_grid(line, lambda z: q.log_prob(z.unsqueeze(1).expand(-1, len(x), -1))).exp().numpy()


@torch.no_grad()
def on_grid(line, log_prob):
    """A log-density of N data at all points z of a square. (N, z2, z1)"""
    z = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)
    return torch.cat([log_prob(part) for part in z.split(5000)]).T.unflatten(1, (len(line), -1))


def answer(frozen, annealed, joint):
    log_p = [log_likelihood(*pair) for pair in zip(frozen, annealed, strict=True)]
    gap = {kind: [of - one[kind]["elbo"] for of, one in zip(log_p, frozen, strict=True)] for kind in frozen[0]}
    whole = {kind: Number(mean(of.mean().item() for of in gap[kind])) for kind in gap}
    encoder = mean(one["diagonal"]["encoder"]["value"] for one in frozen)
    parts = {"whole": whole["diagonal"], "amortisation": Number(encoder)}
    parts["approximation"] = Number(whole["diagonal"].value - encoder)
    lines = [
        Line("Gap of the diagonal guide, nats (at least)", parts),
        Line("Gap of each guide, nats (at least)", whole),
        Line("log p(x) of the frozen model, nats (at least)", {"": spread([of.mean().item() for of in log_p])}),
        Line("By annealing", {"": spread([of.mean().item() for of in annealed])}),
    ]
    rows = [row_of(kind, [one[kind] for one in frozen], gap[kind], frozen) for kind in frozen[0]]
    heads = ["guide", "ELBO", "gain", "log p(x)", "gain of log p(x)", "seconds"]
    return lines, [Table(HEADS, rows), Table(heads, [row_of_joint(kind, joint) for kind in joint[0]])]


def row_of(kind, found, gap, frozen):
    """Means over the seeds, with errors over data and seeds."""
    gain = [one["elbo"] - other["diagonal"]["elbo"] for one, other in zip(found, frozen, strict=True)]
    encoder = [one["encoder"]["value"] for one in found] if kind != REFINED else []
    above = [(one["k"] > usable(PARTICLES)).double().mean().item() for one in found]
    return [
        kind,
        spread([one["elbo"].mean().item() for one in found]),
        with_error(gap),
        "" if kind == "diagonal" else with_error(gain),
        spread(encoder) if encoder else "",
        spread([of.mean().item() - one for of, one in zip(gap, encoder, strict=True)]) if encoder else "",
        spread([one["log_likelihood"].mean().item() for one in found]),
        Number(100 * mean(above), None, 0),
        Number(mean(one["seconds"] for one in found), None, 0),
        Number(mean(one["ms"] for one in found)),
    ]


def row_of_joint(kind, joint):
    found = [one[kind] for one in joint]
    gains = [
        [one[name] - other["diagonal"][name] for one, other in zip(found, joint, strict=True)]
        for name in ("elbo", "log_likelihood")
    ]
    elbo, log_p = ("" if kind == "diagonal" else with_error(gain) for gain in gains)
    bound, own = (spread([one[name].mean().item() for one in found]) for name in ("elbo", "log_likelihood"))
    return [kind, bound, elbo, own, log_p, Number(mean(one["seconds"] for one in found), None, 0)]
