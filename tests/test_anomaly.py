"""Scores against closed forms, and the AUROC against what it is a short form of: a count of pairs."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import binary, known, two_layers
from sklearn.metrics import roc_auc_score
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader

import pyrovae
from pyrovae import anomaly, plots
from pyrovae.data import Split, Splits, from_arrays
from pyrovae.evaluation.anomaly import auroc
from pyrovae.guides import Delta
from pyrovae.likelihoods import Normal

SCORES = [anomaly.surprisal, anomaly.negative_elbo, anomaly.distortion]


def value(normal, anomalous):
    return auroc(normal, anomalous)["value"]


@pytest.fixture
def tied():
    """Scores of 60 normal data and 45 anomalies, of which many are equal."""
    return torch.randint(0, 9, (60,)).double(), torch.randint(2, 11, (45,)).double()


def test_auroc_counts_pairs(tied):
    normal, anomalous = tied
    wins = (anomalous[:, None] > normal).double() + 0.5 * (anomalous[:, None] == normal)
    labels = np.repeat([0, 1], [60, 45])
    assert value(*tied) == pytest.approx(wins.mean().item(), abs=1e-12)
    assert value(*tied) == pytest.approx(roc_auc_score(labels, torch.cat(tied)), abs=1e-12)
    parts = wins.mean(1).var() / 45 + wins.mean(0).var() / 60
    assert auroc(*tied)["standard_error"] == pytest.approx(parts.sqrt().item(), abs=1e-12)


@pytest.mark.parametrize("rising", [torch.exp, lambda s: 3 * s - 100, lambda s: s**3, lambda s: torch.log(s)])
def test_only_the_order_counts(tied, rising):
    """log 0 is -inf: an order, too."""
    assert auroc(*map(rising, tied)) == auroc(*tied)


def test_falling_scores_turn_it_round(tied):
    normal, anomalous = tied
    turned = [auroc(anomalous, normal), auroc(-normal, -anomalous)]
    for each in turned:
        assert each["value"] == pytest.approx(1 - value(*tied), abs=1e-12)
        assert each["standard_error"] == pytest.approx(auroc(*tied)["standard_error"], abs=1e-12)


def test_extremes():
    low, high = torch.rand(20), 2 + torch.rand(30)
    assert auroc(low, high) == {"value": 1, "standard_error": 0}
    assert value(high, low) == 0
    assert value(torch.ones(4), torch.ones(7)) == 0.5
    assert value(torch.tensor([-math.inf, 0.0]), torch.tensor([math.inf, 5.0])) == 1


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_standard_error_is_the_spread(shift):
    """Two normals a shift apart have AUROC Phi(shift / sqrt(2)): 1/2 under the null."""
    truth = dist.Normal(0.0, 1.0).cdf(torch.tensor(shift / math.sqrt(2))).item()
    runs = [auroc(torch.randn(80), torch.randn(50) + shift) for _ in range(400)]
    deviations = torch.tensor([(run["value"] - truth) / run["standard_error"] for run in runs])
    assert abs(deviations.mean()) < 4 / math.sqrt(400)
    assert 0.88 < deviations.std() < 1.15


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([1.0, math.nan, 2.0]), "expected numbers, found 1 NaN of 3 scores"),
        (torch.tensor([]), r"expected at least 2 scores of shape \(N,\), found shape \(0,\)"),
        (torch.tensor([1.0]), r"found shape \(1,\)"),
        (torch.ones(3, 2), r"found shape \(3, 2\)"),
        (torch.tensor(1.0), r"found shape \(\)"),
    ],
)
def test_what_are_no_scores_is_refused(bad, message):
    for name, pair in {"normal": (bad, torch.rand(5)), "anomalous": (torch.rand(5), bad)}.items():
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            auroc(*pair)


def test_with_the_exact_guide_scores_are_those_of_the_evidence(linear):
    truth = -linear.evidence.log_prob(linear.x)
    torch.testing.assert_close(anomaly.surprisal(linear.exact, linear.x, 3), truth, rtol=0, atol=1e-10)
    bound = anomaly.negative_elbo(linear.exact, linear.x, 4000)  # the KL is closed, the other part drawn
    assert abs((bound - truth).mean()) < 0.03
    assert abs(bound - truth).max() < 0.3
    typical = anomaly.atypicality(linear.exact, linear.x, linear.x[:30], 3)
    torch.testing.assert_close(typical, (truth - truth[:30].mean()).abs(), rtol=0, atol=1e-10)


def test_the_bound_is_distortion_and_kl(linear):
    """-ELBO = -E_q[log p(x|z)] + KL, and lies KL(q(z|x) || p(z|x)) above -log p(x); in closed form."""
    q = linear.vae.q_z(linear.x)
    prior = linear.vae.p_z().expand(q.batch_shape)
    bound, distortion = (score(linear.vae, linear.x, 4000) for score in (anomaly.negative_elbo, anomaly.distortion))
    torch.testing.assert_close(bound - distortion, kl_divergence(q, prior).detach(), rtol=0, atol=1e-9)
    full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = kl_divergence(full, linear.posterior(linear.x)).detach()
    excess = bound - (gap - linear.evidence.log_prob(linear.x))
    assert abs(excess.mean()) < 0.05
    assert (bound - anomaly.surprisal(linear.vae, linear.x, 4000) > -0.05).all()


def test_a_model_is_no_stranger_than_itself(linear):
    assert anomaly.background_ratio(linear.vae, linear.x, linear.vae, 7).abs().max() == 0


def test_the_ratio_of_two_models_is_that_of_their_evidences(linear):
    other = pyrovae.VAE(5, 2, likelihood=partial(Normal, scale=1.3), encoder=torch.nn.Linear(5, 4)).double()
    other.decoder = torch.nn.Linear(2, 5).double()
    background = known(other, 1.3)
    found = anomaly.background_ratio(linear.exact, linear.x, background.exact, 3)
    truth = background.evidence.log_prob(linear.x) - linear.evidence.log_prob(linear.x)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)


def test_measures_are_not_mixed(linear):
    with pytest.raises(ValueError, match="background: expected a density over real values, found a mass over binary"):
        anomaly.background_ratio(linear.vae, linear.x, pyrovae.VAE(5, 2).double())


def test_typical_is_what_is_as_likely_as_the_mean(linear):
    """Of one datum the mean is its own; and a datum of the greatest density is strange."""
    vae = linear.vae
    assert anomaly.atypicality(vae, linear.x[:1], linear.x[:1], 5).item() == 0
    mode, normal = linear.evidence.mean.expand(2, -1), linear.evidence.sample((500,))
    assert value(*(anomaly.surprisal(linear.exact, x, 2) for x in (normal, mode))) == 0
    assert value(*(anomaly.atypicality(linear.exact, x, normal, 2) for x in (normal, mode))) > 0.7


def test_a_programs_pair_of_ones_own_is_scored():
    own = two_layers([0.7, -0.3, 0.4, -0.2], 0.5)
    against = [partial(anomaly.atypicality, normal=own.x), partial(anomaly.background_ratio, background=own)]
    for score in SCORES + against:
        assert torch.isfinite(score((own.model, own.guide), own.x)).all()


@pytest.mark.parametrize("score", SCORES)
def test_a_row_has_its_score_whatever_stands_beside_it(score):
    vae, x = pyrovae.VAE(4, 2), binary(300)
    whole = score(vae, x, 5)
    assert whole.shape == (300,)
    assert torch.equal(score(vae, x[:1], 5), whole[:1])
    with pytest.raises(ValueError, match="there are 0 rows"):
        score(vae, x[:0], 5)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 4\), found \(128, 3\)"):
        score(vae, x[:, :3], 5)


def test_of_a_point_guide_only_the_distortion_is_a_score():
    vae, x = pyrovae.VAE(4, 2, guide=Delta), binary(10)
    assert torch.isfinite(anomaly.distortion(vae, x, 1)).all()
    for score in (anomaly.surprisal, anomaly.negative_elbo):
        with pytest.raises(ValueError, match="expected a guide with a density, found a point"):
            score(vae, x, 1)


@pytest.mark.parametrize("kind", ["dynamic", "shuffled"])
def test_the_compressor_sees_what_is_scored(kind):
    """The same draws of a dynamic binarisation, the same order of a loader; as many bits as it says, in nats."""
    seen = []
    x = torch.rand(200, 1, 6, 6)
    data = Split(x, binarize="dynamic") if kind == "dynamic" else DataLoader(x.round(), 30, shuffle=True)

    def bits(image):
        seen.append(image)
        return int(image.sum())

    vae = pyrovae.VAE((1, 6, 6), 2)
    found = anomaly.complexity_ratio(vae, data, bits, 5, seed=3)
    x = torch.stack(seen)
    assert set(x.unique().tolist()) == {0, 1}
    truth = anomaly.surprisal(vae, x, 5, seed=3) - math.log(2) * x.sum((1, 2, 3)).double()
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-4)


def test_a_simple_image_is_short():
    flat, noise = torch.full((3, 20, 20), 0.3), torch.rand(3, 20, 20)
    assert anomaly.png(flat) < 0.2 * anomaly.png(noise)
    assert abs(anomaly.png(noise) / (8 * 3 * 20 * 20) - 1) < 0.15  # noise does not compress
    vae = pyrovae.VAE((3, 20, 20), 2, likelihood=Normal)
    x = torch.stack([flat, noise])
    lengths = torch.tensor([anomaly.png(flat), anomaly.png(noise)]).double()
    truth = anomaly.surprisal(vae, x, 3) - lengths * math.log(2)
    torch.testing.assert_close(anomaly.complexity_ratio(vae, x, particles=3), truth)


PICTURE = torch.rand(1, 4, 4)


@pytest.mark.parametrize("image", [PICTURE[0], PICTURE.expand(2, 4, 4), PICTURE + 1, -PICTURE])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"png: expected images \(1 or 3, H, W\) with values in \[0, 1\]"):
        anomaly.png(image)


def test_mutation_replaces_a_share_of_the_values():
    x = torch.full((100, 400), 0.5)
    changed = anomaly.mutated(x, 0.3, levels=2) != x
    assert changed.double().mean() == pytest.approx(0.3, abs=0.01)
    assert anomaly.mutated(x, 1, levels=2).mean() == pytest.approx(0.5, abs=0.01)
    grey = anomaly.mutated(x, 1, levels=5)
    assert grey.unique().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.equal(anomaly.mutated(x, 0), x)
    assert torch.equal(anomaly.mutated(x, 0.3), anomaly.mutated(x, 0.3))
    assert not torch.equal(anomaly.mutated(x, 0.3), anomaly.mutated(x, 0.3, seed=1))
    with pytest.raises(ValueError, match=r"rate: expected a probability, found 1\.5"):
        anomaly.mutated(x, 1.5)
    with pytest.raises(ValueError, match=r"expected values from 0 to 1, found torch\.uint8"):
        anomaly.mutated(x.byte())


@pytest.fixture
def marked():
    """Vectors that tell their class: x = (y, noise), for y = 0, 1, 2; some labels are missing."""
    y = torch.arange(300) % 3
    x = torch.stack([y.float(), torch.rand(300)], 1)
    splits = from_arrays(x, y)
    splits.test.y[::7] = splits.train.y[::5] = -1
    return splits


@pytest.mark.parametrize(("table", "counted"), [(anomaly.one_class, 1), (anomaly.leave_one_class_out, 2)])
def test_the_tables_train_on_what_is_normal_and_score_without_labels(marked, table, counted):
    seen = []

    def detector(normal):
        assert normal.test is None
        kinds = set(normal.train.y.tolist())
        assert kinds == set(normal.valid.y.tolist()) == set(normal.train.x[:, 0].tolist())
        seen.append(kinds)

        def score(data):
            assert data.y is None
            assert len(data) == len(marked.test)
            return torch.tensor([float(each not in kinds) for each in data.x[:, 0].tolist()])

        return score

    found = table(detector, marked)
    assert [len(kinds) for kinds in seen] == [counted] * 3
    assert found["auroc_by_class"] == {each: {"value": 1, "standard_error": 0} for each in "012"}
    assert found["auroc"] == {"value": 1, "standard_error": 0}


def test_a_row_without_a_label_is_neither_normal_nor_an_anomaly(marked):
    """Else the AUROC of these scores, which are of the unlabelled rows, would not be 1/2."""
    unknown = (marked.test.y < 0).float()
    found = anomaly.one_class(lambda normal: lambda data: unknown, marked)
    assert all(each == {"value": 0.5, "standard_error": 0} for each in found["auroc_by_class"].values())


def test_a_class_without_validation_rows_has_no_validation_part(marked):
    marked.valid.y[marked.valid.y == 0] = 1
    seen = []

    def detector(normal):
        seen.append(normal.valid)
        return lambda data: torch.zeros(len(data))

    anomaly.one_class(detector, marked)
    assert seen[0] is None
    assert set(seen[1].y.tolist()) == {1}


def test_data_without_classes_have_no_table(marked):
    for bad in (from_arrays(torch.rand(20, 2)), replace(marked, test=None)):
        with pytest.raises(ValueError, match="expected data with classes and a test part, found none in arrays"):
            anomaly.one_class(None, bad)
    with pytest.raises(ValueError, match=r"score: expected shape \(60,\), found \(60, 1\)"):
        anomaly.one_class(lambda normal: lambda data: data.x[:, :1], marked)


def test_a_label_is_not_given_away():
    """A model that cannot do without the label is refused: from the label it would know the held-out class."""
    data = from_arrays(binary(60), torch.arange(60) % 2)
    vae = pyrovae.models.ConditionalVAE(4, 2, num_classes=2)
    with pytest.raises(ValueError, match="y: expected labels, found none"):
        anomaly.leave_one_class_out(lambda normal: partial(anomaly.surprisal, vae), data)


def test_digits_of_another_class_are_anomalies(digits):
    """Three classes of the ten. The control: two halves of the normal data are told apart by nothing."""
    few = Splits("few", *(_only(split, [0, 1, 4]) for split in (digits.train, digits.valid, digits.test)), 10)
    trained = []

    def detector(normal):
        vae = pyrovae.VAE(normal.event_shape, 8)
        pyrovae.fit(vae, normal, epochs=20, batch_size=32, learning_rate=3e-3)
        trained.append(vae)
        return partial(anomaly.surprisal, vae, particles=20)

    found = anomaly.one_class(detector, few)
    assert found["auroc"]["value"] > 0.95
    own = anomaly.surprisal(trained[0], few.test.x[few.test.y == 0] / 255, 20)
    halves = auroc(own[::2], own[1::2])
    assert abs(halves["value"] - 0.5) < 4 * halves["standard_error"]


def _only(split, classes):
    rows = torch.isin(split.y, torch.tensor(classes))
    return replace(split, x=split.x[rows], y=split.y[rows])


def test_the_area_under_the_curve_is_the_auroc(tied):
    axes = plots.roc_curves({"a": tuple(each.numpy() for each in tied)}).axes[0]
    alarms, found = axes.lines[0].get_data()
    assert (alarms[0], found[0], alarms[-1], found[-1]) == (1, 1, 0, 0)
    assert -np.trapezoid(found, alarms) == pytest.approx(value(*tied), abs=1e-12)


def test_bars_stand_on_chance():
    by_class = {"a": {"value": 0.9, "standard_error": 0.01}, "b": {"value": 0.3, "standard_error": 0}}
    axes = plots.auroc_bars(by_class, "normal").axes[0]
    tops = [patch.get_y() + patch.get_height() for patch in axes.patches]
    np.testing.assert_allclose(tops, [0.9, 0.3])
    assert axes.get_ylim()[0] < 0.3
    assert axes.get_xlabel() == "normal"
