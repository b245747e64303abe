"""Members together: every pair of them trains, or is refused with the reason."""

import random
import warnings
from functools import partial
from itertools import combinations, product

import pytest
import torch

import pyrovae
from pyrovae import VAE, guides, likelihoods, networks, objectives, priors

IMAGE = (1, 8, 8)
PARTS = {
    "prior": [
        priors.StandardNormal,
        partial(priors.Mixture, components=3),
        partial(priors.VampPrior, components=9),
        priors.AutoregressiveFlow,
        priors.NeuralSpline,
        priors.Laplace,
        priors.UniformSphere,
    ],
    "likelihood": [
        likelihoods.Bernoulli,
        partial(likelihoods.Bernoulli, soft_targets=True),
        likelihoods.ContinuousBernoulli,
        partial(likelihoods.Normal, scale=0.3),
        partial(likelihoods.Normal, learn="per-input"),
        partial(likelihoods.Normal, learn="optimal"),
        likelihoods.DiscretizedLogistic,
        partial(likelihoods.DiscretizedLogisticMixture, components=2),
        likelihoods.Laplace,
        likelihoods.StudentT,
        likelihoods.Beta,
        likelihoods.CategoricalLevels,
        likelihoods.Poisson,
        likelihoods.NegativeBinomial,
        partial(likelihoods.Missing, of=likelihoods.Normal),
        likelihoods.Columns,
        likelihoods.OneHotCategorical,
    ],
    "guide": [
        guides.DiagonalNormal,
        guides.FullRankNormal,
        partial(guides.LowRankNormal, rank=1),
        guides.IAF,
        guides.Planar,
        guides.NeuralSpline,
        partial(guides.Mixture, components=2),
        guides.Delta,
        guides.PowerSpherical,
    ],
    "objective": [
        objectives.ELBO,
        partial(objectives.ELBO, 0.5, "analytic"),
        partial(objectives.ELBO, 1.0, "path-derivative"),
        partial(objectives.ELBO, objectives.WarmUp(10)),
        objectives.Reconstruction,
        objectives.KL,
        partial(objectives.FreeBits, 0.2),
        partial(objectives.IWAE, 3),
        partial(objectives.IWAE, 3, dreg=True),
        partial(objectives.Renyi, 0.5, 3),
        objectives.Capacity,
        objectives.TotalCorrelation,
        partial(objectives.MMD, beta=0.1),
        partial(objectives.ReweightedWakeSleep, 3),
        objectives.SemiSupervised,
    ],
    "network": [
        networks.MLP,
        partial(networks.MLP, hidden=(20,), gated=True),
        partial(networks.Conv, channels=(4,), hidden=10),
        networks.ResNet,
    ],
}


VECTORS = (likelihoods.Columns, likelihoods.OneHotCategorical)  # likelihoods of vectors alone


def named(part):
    if not isinstance(part, partial):
        return part.__name__
    return f"{part.func.__name__}({', '.join(map(str, [*part.args, *part.keywords.values()]))})"


def refused(case):
    """Why a combination makes no sense; "" where it does."""
    prior, likelihood, guide, objective, network = (
        part.func if isinstance(part, partial) else part for part in case.values()
    )
    path = case["objective"] in (PARTS["objective"][2], PARTS["objective"][8])
    if (prior is priors.UniformSphere) != (guide is guides.PowerSpherical):
        return "guide: expected one on"
    if prior is priors.VampPrior and guide in (guides.Planar, guides.Delta):
        return "with a density at any z"
    if (path or objective is objectives.ReweightedWakeSleep) and guide is guides.Planar:
        return "has no inverse"
    if objective is objectives.TotalCorrelation and guide not in (guides.DiagonalNormal,):
        return "expected one latent site of independent latents"
    if likelihood in VECTORS and network in (networks.Conv, networks.ResNet):
        return "expected an image"
    return ""


def covering(parts, together):
    """Cases in which any `together` parts that make sense together stand at least once: greedily, from all left."""
    keys = list(parts)

    def groups(chosen):
        return {tuple((key, chosen[key]) for key in some) for some in combinations(keys, together)}

    left = {
        tuple(zip(some, numbers, strict=True))
        for some in combinations(keys, together)
        for numbers in product(*(range(len(parts[key])) for key in some))
    }
    cases, generator = [], random.Random(0)
    while left:
        wanted, best, gain = min(left), None, -1
        for _ in range(8):
            chosen = {key: generator.randrange(len(parts[key])) for key in keys} | dict(wanted)
            new = len(groups(chosen) & left)
            if new > gain and not refused({key: parts[key][chosen[key]] for key in keys}):
                best, gain = chosen, new
        left -= {wanted} if best is None else groups(best)
        if best is not None:
            cases.append({key: parts[key][best[key]] for key in keys})
    return cases


def build(case):
    shape = (6,) if case["likelihood"] in VECTORS else IMAGE
    likelihood, network = case["likelihood"], case["network"]
    if likelihood is likelihoods.Columns:
        likelihood = partial(likelihood, families=[likelihoods.Normal, likelihoods.Bernoulli, likelihoods.Poisson] * 2)
    missing = isinstance(likelihood, partial) and likelihood.func is likelihoods.Missing
    encoder = partial(networks.FilledIn, network=network) if missing else network
    vae = VAE(
        shape, 3, prior=case["prior"], likelihood=likelihood, guide=case["guide"], encoder=encoder, decoder=network
    )
    x = vae.sample(32)
    if missing:
        x[:, :, ::3] = torch.nan
    return vae, x


def identify(case):
    return ", ".join(map(named, case.values()))


def loss_of(vae, x, objective):
    return objective.differentiable_loss(vae.model, vae.guide, x)


def trains(case, compile):
    """20 steps on one batch of digits' shape: all finite; the loss, at the same 20 noises, falls.

    Compiled in float64: the compiler rounds otherwise than the graph, and some of these have steep places.
    """
    vae, x = build(case)
    if compile is True:
        vae, x = vae.double(), x.double()
    objective = case["objective"]()

    def loss():
        values = []
        for seed in range(20):
            torch.manual_seed(seed)
            values.append(objective.final_loss(vae.model, vae.guide, x))
        return sum(values) / len(values)

    before = loss()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training = pyrovae.Training(
            vae, x, epochs=20, batch_size=len(x), objective=objective, learning_rate=3e-4, compile=compile
        )
    losses = [record["loss"] for record in training]
    assert training.svi.path == ("compiled" if compile is True else "graph")
    assert torch.tensor(losses).isfinite().all()
    # A KL that starts at 0, as a VampPrior's does, has nowhere to fall to.
    assert loss() < (max(before, 0.05) if isinstance(objective, objectives.KL) else before)


@pytest.mark.parametrize("case", covering(PARTS, 1), ids=identify)
def test_every_member_trains_in_company(case):
    trains(case, compile="auto")


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(PARTS, 2), ids=identify)
def test_every_pair_of_members_trains(case):
    trains(case, compile="auto")


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(PARTS, 1), ids=identify)
def test_every_member_trains_compiled(case):
    trains(case, compile=True)


REFUSED = [
    {"prior": priors.UniformSphere},
    {"guide": guides.PowerSpherical},
    {"prior": PARTS["prior"][2], "guide": guides.Planar},
    {"prior": PARTS["prior"][2], "guide": guides.Delta},
    {"objective": PARTS["objective"][2], "guide": guides.Planar},
    {"objective": PARTS["objective"][8], "guide": guides.Planar},
    {"objective": PARTS["objective"][13], "guide": guides.Planar},
    {"objective": objectives.TotalCorrelation, "guide": guides.FullRankNormal},
    {"objective": objectives.TotalCorrelation, "guide": guides.IAF},
    {"likelihood": likelihoods.Columns, "network": networks.ResNet},
    {"likelihood": likelihoods.OneHotCategorical, "network": PARTS["network"][2]},
]


@pytest.mark.parametrize("changed", REFUSED, ids=identify)
def test_what_makes_no_sense_together_is_refused_with_the_reason(changed):
    case = {key: table[0] for key, table in PARTS.items()} | changed
    with pytest.raises(ValueError, match=refused(case)):
        loss_of(*build(case), case["objective"]())


def test_missing_entries_need_an_encoder_that_sees_them():
    with pytest.raises(ValueError, match=r"expected one that takes missing entries"):
        VAE(IMAGE, 2, likelihood=likelihoods.Missing)


def test_the_covering_covers_every_pair_that_makes_sense():
    tiny = {"prior": PARTS["prior"][:2], "likelihood": PARTS["likelihood"][:3], "guide": PARTS["guide"][:2],
            "objective": PARTS["objective"][:2], "network": PARTS["network"][:2]}  # fmt: skip
    cases = covering(tiny, 2)
    for a, b in combinations(tiny, 2):
        assert {(named(c[a]), named(c[b])) for c in cases} == {
            (named(one), named(two)) for one in tiny[a] for two in tiny[b]
        }
    assert len(cases) < 12
