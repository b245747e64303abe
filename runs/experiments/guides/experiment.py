"""What is lost between the ELBO and log p(x): by the encoder or by the guide's family, on one and the same model?"""

import time
from functools import partial
from statistics import mean

import torch
from pyro import poutine

from pyrovae import VAE, anneal, data, fit, gaps, plots, refine
from pyrovae.data import subset
from pyrovae.evaluation.diagnostics import by_datum
from pyrovae.evaluation.pareto_k import usable
from pyrovae.experiments import OVER_BOTH, OVER_SEEDS, Findings, spread, table, with_error
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
ON_ONE_MODEL = (
    "The model was trained with a diagonal guide. Then its decoder stands still, and each family learns a guide of it "
    "from the beginning, in {epochs} epochs. Nats per datum of {rows} test images: log p(x) of the model is "
    f"the largest of the guides' estimates, with {PARTICLES} importance samples each, and of annealed importance "
    f"sampling with {CHAINS} chains of {{temperatures}} temperatures, which says {{annealed}}: all are lower bounds in "
    f"the mean, and those of guides are low where k-hat is above {usable(PARTICLES):.2f}; gap, what lies "
    "between it and the ELBO; gain, "
    "beside the diagonal guide; encoder, what refining each "
    f"datum's proposal by {STEPS} steps of Adam wins back of the gap (a lower bound), and family, the rest. "
    f"`{REFINED}` is a guide which does that. Seconds are those of its training, milliseconds those of a proposal.\n\n"
)
TOGETHER = (
    "\n\nGuide and model trained together: log p(x), by the guide's own samples, is another number for each model. A "
    "family that holds the diagonal one, as the full-rank does, can be behind it on training images only as "
    "long as it has not converged.\n\n"
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
    return Findings(told(frozen, annealed, joint, budget), {"posteriors": pictures(splits, budget)}, ERRORS)


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


def told(frozen, annealed, joint, budget):
    log_p = [log_likelihood(*each) for each in zip(frozen, annealed, strict=True)]
    gap = {kind: [of - one[kind]["elbo"] for of, one in zip(log_p, frozen, strict=True)] for kind in frozen[0]}
    lost = {kind: mean(each.mean().item() for each in of) for kind, of in gap.items()}
    encoder = mean(one["diagonal"]["encoder"]["value"] for one in frozen)
    best = min(lost, key=lost.get)
    heads = [
        "guide",
        "ELBO",
        "gap",
        "gain",
        "encoder",
        "family",
        "log p(x), own",
        f"k-hat > {usable(PARTICLES):.2f}",
        "seconds",
        "ms a datum",
    ]
    rows = [row_of(kind, [one[kind] for one in frozen], gap[kind], frozen) for kind in frozen[0]]
    return (
        f"On one model, whose log p(x) is at least {spread([each.mean().item() for each in log_p])} nats, the diagonal "
        f"guide loses at least {lost['diagonal']:.2f} nats: at least {encoder:.2f} by the encoder that all data share, "
        f"the rest, {lost['diagonal'] - encoder:.2f}, by its family or what more refinement would win back. Least, in "
        f"the mean, is lost by {best}, {lost[best]:.2f}.\n\n"
        + ON_ONE_MODEL.format(**budget, annealed=spread([each.mean().item() for each in annealed]))
        + table(heads, rows)
        + TOGETHER
        + table(
            ["guide", "ELBO", "gain", "log p(x)", "gain", "seconds"], [row_of_joint(kind, joint) for kind in joint[0]]
        )
        + "\n\nThe picture is of a model with two latents, frozen too, and of guides that are trained anew. Blue is "
        "p(z|x) on a grid, whose sum is log p(x); the lines are where each guide's density is 1/2, 1/10 and 1/100 of "
        "its highest, for the test images at which the KL of the guide that trained the model is at its quantiles "
        f"{', '.join(f'{share:g}' for share in SHOWN)}."
    )


def row_of(kind, found, gap, frozen):
    """Means over the seeds, with errors over data and seeds."""
    gain = [one["elbo"] - other["diagonal"]["elbo"] for one, other in zip(found, frozen, strict=True)]
    encoder = [one["encoder"]["value"] for one in found] if kind != REFINED else []
    return [
        kind,
        spread([one["elbo"].mean().item() for one in found]),
        with_error(gap),
        "" if kind == "diagonal" else with_error(gain),
        spread(encoder) if encoder else "",
        spread([each.mean().item() - one for each, one in zip(gap, encoder, strict=True)]) if encoder else "",
        spread([one["log_likelihood"].mean().item() for one in found]),
        f"{mean((one['k'] > usable(PARTICLES)).double().mean().item() for one in found):.0%}",
        f"{mean(one['seconds'] for one in found):.0f}",
        f"{mean(one['ms'] for one in found):.2f}",
    ]


def row_of_joint(kind, joint):
    found = [one[kind] for one in joint]
    gains = [
        [one[name] - other["diagonal"][name] for one, other in zip(found, joint, strict=True)]
        for name in ("elbo", "log_likelihood")
    ]
    elbo, log_p = ("" if kind == "diagonal" else with_error(gain) for gain in gains)
    bound, own = (spread([one[name].mean().item() for one in found]) for name in ("elbo", "log_likelihood"))
    return [kind, bound, elbo, own, log_p, f"{mean(one['seconds'] for one in found):.0f}"]
