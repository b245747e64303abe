"""Scores of sets against closed forms and against their definitions, written out; and controls that must fail."""

import json
import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import binary
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu
from torch.linalg import vector_norm

import pyrovae
from pyrovae import files, plots, quality
from pyrovae.data import Split, from_arrays
from pyrovae.likelihoods import Normal
from pyrovae.models import CompletionVAE, ConditionalVAE

pytestmark = pytest.mark.usefixtures("double")


def values(found):
    return {name: each["value"] for name, each in found.items()}


def rotation(d):
    return torch.linalg.qr(torch.randn(d, d)).Q


def apart(x, to):
    """All distances, by differences."""
    return vector_norm(x[:, None] - to, dim=-1)


def test_the_nearest_are_the_nearest():
    x, to = torch.randn(30, 2, 3), torch.randn(40, 2, 3)
    distances, rows = quality.nearest(x, to, 5)
    truth = apart(x.flatten(1), to.flatten(1)).sort(dim=1)
    torch.testing.assert_close(distances, truth.values[:, :5])
    assert torch.equal(rows, truth.indices[:, :5])
    assert torch.equal(quality.nearest(x, to, features=torch.square)[1], quality.nearest(x**2, to**2)[1])


@pytest.mark.parametrize("floats", [1, 100, 10**7])
def test_how_much_is_held_at_once_changes_nothing(floats, monkeypatch):
    x, to = torch.randn(30, 4), torch.randn(40, 4)
    whole = quality.nearest(x, to, 3), values(quality.manifolds(x, to))
    monkeypatch.setattr(quality, "FLOATS", floats)
    torch.testing.assert_close((quality.nearest(x, to, 3), values(quality.manifolds(x, to))), whole)


def test_a_copy_is_at_distance_zero_far_from_the_origin():
    """In float32, where |x|^2 - 2 x x' + |x'|^2 would be off by more than the distances."""
    x = torch.randn(50, 6, dtype=torch.float32)
    distances, rows = quality.nearest(x + 1000, x + 1000, 2)
    assert (distances[:, 0] == 0).all()
    assert torch.equal(rows[:, 0], torch.arange(50))
    torch.testing.assert_close(distances, quality.nearest(x, x, 2)[0], rtol=0, atol=1e-3)


def test_what_the_product_cannot_tell_apart_is_in_order():
    """Two clusters of four points each, 1e-2 wide and 2000 apart, in float32."""
    x = (1000 * torch.tensor([[1.0], [-1.0]]).repeat(4, 5) + 1e-2 * torch.randn(8, 5)).float()
    distances, rows = quality.nearest(x, x, 4)
    truth = apart(x, x).sort(dim=1, stable=True)
    assert torch.equal(rows, truth.indices[:, :4])
    torch.testing.assert_close(distances, truth.values[:, :4])


@pytest.fixture
def cloud():
    """Training data, and others of the same distribution."""
    return torch.randn(300, 4), torch.randn(200, 4)


def test_the_statistic_is_that_of_mann_and_whitney():
    """Also where distances are equal: those of zeros and ones are."""
    train, test, samples = binary(9), binary(70), binary(60)
    d_s, d_t = (quality.nearest(each, train)[0][:, 0] for each in (samples, test))
    assert len(torch.cat([d_s, d_t]).unique()) < 5
    truth = mannwhitneyu(d_s, d_t, alternative="less", method="asymptotic", use_continuity=False)
    found = quality.memorisation(samples, train, test)
    assert found["farther"]["value"] == pytest.approx(truth.statistic / (60 * 70), abs=1e-12)
    assert dist.Normal(0.0, 1.0).cdf(torch.tensor(found["c_t"])).item() == pytest.approx(truth.pvalue, abs=1e-12)


def test_draws_of_the_data_are_no_copies():
    """Over many data sets the statistic is a standard normal, and as many are close as the name says."""
    runs = [
        quality.memorisation(torch.randn(60, 3), torch.randn(90, 3), torch.randn(80, 3), share=0.2) for _ in range(200)
    ]
    c_t = torch.tensor([run["c_t"] for run in runs])
    assert abs(c_t.mean()) < 4 / math.sqrt(200)
    assert 0.85 < c_t.std() < 1.15
    close = torch.tensor([run["closer"]["value"] for run in runs])
    assert abs(close.mean() - 0.2) < 4 * close.std() / math.sqrt(200)


def test_copies_are_found(cloud):
    train, test = cloud
    found = quality.memorisation(train[:100] + 1e-3 * torch.randn(100, 4), train, test)
    assert found["c_t"] < -10
    assert found["closer"]["value"] > 0.9
    assert found["farther"]["value"] < 0.02
    assert found["closer_of_test"]["value"] == pytest.approx(0.01)


def test_a_few_copies_are_found_among_bad_samples(cloud):
    """Which the mean would hide: the other samples are far off."""
    train, test = cloud
    found = quality.memorisation(torch.cat([train[:20], 3 * torch.randn(180, 4)]), train, test)
    assert found["c_t"] > 5
    excess = found["closer"]["value"] - found["closer_of_test"]["value"]
    assert excess > 3 * math.hypot(found["closer"]["standard_error"], found["closer_of_test"]["standard_error"])


def test_where_all_are_alike_there_is_no_evidence():
    same = torch.zeros(10, 2)
    found = quality.memorisation(same, same, same)
    assert found["c_t"] == 0
    assert values({name: found[name] for name in ("closer", "closer_of_test", "farther")}) == {
        "closer": 0,
        "closer_of_test": 0,
        "farther": 0.5,
    }


def test_manifolds_are_what_they_are_defined_to_be():
    samples, data, k = torch.randn(35, 3) + 0.5, torch.randn(40, 3), 4
    between = apart(samples, data)
    r_s, r_d = (apart(x, x).sort(dim=1).values[:, k] for x in (samples, data))
    truth = {
        "precision": (between <= r_d).any(1).double().mean().item(),
        "recall": (between <= r_s[:, None]).any(0).double().mean().item(),
        "density": (between <= r_d).sum().item() / (k * 35),
        "coverage": (between <= r_d).any(0).double().mean().item(),
    }
    found = quality.manifolds(samples, data, k)
    assert values(found) == pytest.approx(truth, abs=1e-12)
    without = [
        [each[[row for row in range(len(each)) if row % 10 != group]] for each in (samples, data)]
        for group in range(10)
    ]
    precisions = np.array([quality.manifolds(*pair, k)["precision"]["value"] for pair in without])
    jackknife = math.sqrt(0.9 * ((precisions - precisions.mean()) ** 2).sum())
    assert found["precision"]["standard_error"] == pytest.approx(jackknife, abs=1e-12)
    assert all(math.isnan(each["standard_error"]) for each in quality.manifolds(samples[:19], data, k).values())


def test_a_set_lies_where_it_lies():
    """Each ball has its own centre and k others."""
    x = torch.randn(50, 3)
    assert values(quality.manifolds(x, x, 4)) == pytest.approx(
        {"precision": 1, "recall": 1, "density": 5 / 4, "coverage": 1}
    )


def test_two_draws_of_one_distribution_have_the_expected_density_and_coverage():
    """E[density] = 1, E[coverage] = 1 - (N-1)...(N-k) / (M+N-1)...(M+N-k): by exchangeability (Naeem et al. 2020)."""
    n, m, k = 40, 30, 3
    runs = [values(quality.manifolds(torch.randn(m, 5), torch.randn(n, 5), k)) for _ in range(150)]
    truth = {"density": 1.0, "coverage": 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))}
    for name, expected in truth.items():
        found = torch.tensor([run[name] for run in runs])
        assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(runs)), name


def test_precision_turned_round_is_recall():
    a, b = torch.randn(30, 3), torch.randn(40, 3)
    one, other = values(quality.manifolds(a, b)), values(quality.manifolds(b, a))
    assert (one["precision"], one["recall"]) == (other["recall"], other["precision"])


def test_duplicates_are_at_their_place():
    """Balls of radius 0 hold what is equal to their centre, and nothing else."""
    data = torch.randn(10, 3).repeat_interleave(3, 0) + 100
    found = values(quality.manifolds(torch.cat([data[::2], data[::2] + 1e-3]), data, 2))
    assert found == pytest.approx({"precision": 0.5, "recall": 1, "density": 3 / 4, "coverage": 1})


@pytest.mark.parametrize("turned", [lambda x: x @ rotation(3), lambda x: 7 * x + 5, lambda x: x.flip(1)])
def test_only_proportions_of_distances_count(turned):
    torch.manual_seed(3)
    a, b = torch.randn(30, 3) + 0.5, torch.randn(30, 3)
    after = turned(torch.cat([a, b]))
    assert quality.manifolds(after[:30], after[30:]) == quality.manifolds(a, b)


@pytest.fixture
def modes():
    """Ten clusters."""
    centres = 20 * torch.randn(10, 4)
    return lambda n, few=10: centres[torch.arange(n) % few] + torch.randn(n, 4)


def test_a_lost_mode_costs_recall_and_coverage(modes):
    data = modes(400)
    whole, lost = values(quality.manifolds(modes(400), data)), values(quality.manifolds(modes(400, few=2), data))
    assert min(whole.values()) > 0.85
    assert lost["precision"] > 0.85
    assert max(lost["recall"], lost["coverage"]) < 0.25
    point = values(quality.manifolds(data[:1].expand(400, -1), data))
    assert point["precision"] == 1
    assert max(point["recall"], point["coverage"]) < 0.05


def test_noise_costs_precision_and_density(modes):
    noise = values(quality.manifolds(torch.rand(400, 4) * 80 - 40, modes(400)))
    assert max(noise["precision"], noise["density"]) < 0.2


def test_frechet_of_a_symmetric_map():
    """x -> Ax + m with A positive is the optimal transport of one normal to the other."""
    x, m, root = torch.randn(60, 4), torch.randn(4), torch.randn(4, 4)
    a = root @ root.T
    moved = (x - x.mean(0)) @ (torch.eye(4) - a)
    truth = (x.mean(0) - x.mean(0) @ a - m).square().sum() + moved.square().sum() / 59
    assert quality.frechet(x, x @ a + m)["value"] == pytest.approx(truth.item(), rel=1e-10)


def test_frechet_is_the_formula():
    a, b = torch.randn(60, 4) @ torch.randn(4, 4), torch.randn(80, 4) @ torch.randn(4, 4) + 1
    s_a, s_b = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    truth = (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    found = quality.frechet(a, b)
    assert found["value"] == pytest.approx(truth, rel=1e-8)
    assert quality.frechet(b, a)["value"] == pytest.approx(truth, rel=1e-8)
    q = rotation(4)
    assert quality.frechet(a @ q + 3, b @ q + 3) == pytest.approx(found, rel=1e-8)
    assert quality.frechet(2 * a, 2 * b)["value"] == pytest.approx(4 * truth, rel=1e-8)


@pytest.mark.parametrize("d", [3, 100])
def test_a_set_is_at_no_frechet_distance_from_itself(d):
    """Also with more dimensions than rows, where covariances are singular."""
    x = torch.randn(40, d)
    assert quality.frechet(x, x)["value"] == pytest.approx(0, abs=1e-10)
    assert quality.frechet(x, x + 2)["value"] == pytest.approx(4 * d, rel=1e-10)


def test_the_frechet_error_is_the_spread():
    runs = [quality.frechet(torch.randn(200, 2), 2 * torch.randn(150, 2) + 1) for _ in range(150)]
    spread = torch.tensor([run["value"] for run in runs]).std().item()
    assert sum(run["standard_error"] for run in runs) / 150 == pytest.approx(spread, rel=0.2)
    assert sum(run["value"] for run in runs) / 150 == pytest.approx(4, abs=4 * spread / math.sqrt(150) + 0.05)
    a, b = torch.randn(30, 2), torch.randn(30, 2) + 1
    groups = torch.arange(30).view(3, 10)  # rows 0, 10 and 20 are the first, and so on
    without = [torch.tensor([i for i in range(30) if i not in groups[:, g].tolist()]) for g in range(10)]
    found = torch.tensor([quality.frechet(a[rows], b[rows])["value"] for rows in without])
    truth = (0.9 * (found - found.mean()).square().sum()).sqrt().item()
    assert quality.frechet(a, b)["standard_error"] == pytest.approx(truth, rel=1e-9)
    assert math.isnan(quality.frechet(torch.randn(19, 2), torch.randn(40, 2))["standard_error"])


@pytest.fixture
def picture():
    """An image and a distorted one, both (1, 1, 28, 28)."""
    i, j = np.mgrid[0:28, 0:28]
    a = 0.5 + 0.5 * np.sin(i / 3) * np.cos(j / 5)
    b = np.clip(a * 0.7 + 0.1 * np.sin(i * j / 7), 0, 1)
    return tuple(torch.from_numpy(each)[None, None] for each in (a, b))


def test_similarity_is_that_of_others(picture):
    """The numbers of scikit-image 0.26: structural_similarity(a, b, data_range=1, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False) and peak_signal_noise_ratio(a, b, data_range=1)."""
    assert quality.ssim(*picture).item() == pytest.approx(0.7268548275228682, abs=1e-12)
    assert quality.psnr(*picture).item() == pytest.approx(15.262567793693009, abs=1e-10)


def test_similarity_of_constants():
    """Of constants only the means are compared; a change by 0.1 is 20 dB."""
    a, b = torch.full((1, 1, 15, 15), 0.3), torch.full((1, 1, 15, 15), 0.4)
    assert quality.ssim(a, b).item() == pytest.approx((0.24 + 1e-4) / (0.25 + 1e-4), abs=1e-10)
    assert quality.psnr(a, b).item() == pytest.approx(20, abs=1e-10)
    assert quality.psnr(a, b, span=10).item() == pytest.approx(40, abs=1e-10)


@pytest.mark.parametrize("score", [quality.ssim, quality.psnr])
def test_laws_of_similarity(score, picture):
    a, b = torch.rand(5, 3, 16, 12), torch.rand(5, 3, 16, 12)
    found = score(a, b)
    assert found.shape == (5,)
    assert torch.isfinite(found).all()
    for one, other in [(b, a), (a.flip(3), b.flip(3)), (a.mT, b.mT), (a[:, [2, 0, 1]], b[:, [2, 0, 1]])]:
        torch.testing.assert_close(score(one, other), found)
    torch.testing.assert_close(score(255 * a, 255 * b, span=255), found)
    torch.testing.assert_close(score(a[3:], b[3:]), found[3:])
    assert (score(a, a) == (1 if score is quality.ssim else math.inf)).all()
    x = picture[0]
    worse = [score(x, x + scale * torch.randn_like(x)).item() for scale in (0.01, 0.1, 1)]
    assert worse == sorted(worse, reverse=True)


A, B = torch.rand(30, 3), torch.rand(30, 3)
NAN = torch.where(torch.arange(30)[:, None] == 4, math.nan, A)
SETS = {
    "nearest": lambda a, b: quality.nearest(a, b),
    "memorisation": lambda a, b: quality.memorisation(a, b, b),
    "manifolds": lambda a, b: quality.manifolds(a, b),
    "frechet": lambda a, b: quality.frechet(a, b),
}


@pytest.mark.parametrize("score", SETS.values(), ids=SETS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (A[:, :2], r"at least 2 rows and one event shape, found .*\(30, 2\)"),
        (A[:1], r"at least 2 rows and one event shape, found .*\(1, 3\)"),
        (A[:, 0], r"found .*\(30,\)"),
        (NAN, r"expected finite values, found nan at \(4, 0\), 3 in all"),
    ],
)
def test_what_are_no_sets_is_refused(score, bad, message):
    for pair in ((A, bad), (bad, A)):
        with pytest.raises(ValueError, match=message):
            score(*pair)


@pytest.mark.parametrize("score", [quality.ssim, quality.psnr])
def test_what_is_no_pair_is_refused(score):
    x = torch.rand(2, 1, 12, 12)
    for bad in (x[:1], x[:, :, :11], x[:0], x[0, 0, 0]):
        with pytest.raises(ValueError, match=r"expected two sets \(N, \*event_shape\) of one shape"):
            score(x, bad)
    with pytest.raises(ValueError, match="y: expected finite values, found nan"):
        score(x, torch.full_like(x, math.nan))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: quality.manifolds(A, B[:7], 7), "k: expected fewer than the 7 rows of the smaller set, found 7"),
        (lambda: quality.manifolds(A, B, 0), "k: expected an integer >= 1, found 0"),
        (lambda: quality.nearest(A, B[:7], 8), "k: expected at most 7, the rows to choose from, found 8"),
        (lambda: quality.memorisation(A, B, B, 1.0), "share: expected a number between 0 and 1, found 1"),
        (lambda: quality.frechet(A, B, lambda x: x[:2]), r"features: expected \(N, ...\)"),
        (lambda: quality.frechet(A, B, lambda x: x / 0), "features of a: expected finite values"),
        (lambda: quality.ssim(torch.rand(2, 1, 9, 9), torch.rand(2, 1, 9, 9)), r"odd window inside.*found.* and 11"),
        (lambda: quality.ssim(torch.rand(2, 1, 9, 9), torch.rand(2, 1, 9, 9), 4), r"odd window inside.*found.* and 4"),
        (lambda: quality.ssim(A, B), r"expected images \(N, C, H, W\)"),
        (lambda: quality.psnr(A, B, 0), "span: expected a number > 0, found 0"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        asked()


@pytest.fixture(scope="module")
def trained(digits):
    """A VAE of the digits, in float32."""
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float32)
    vae = pyrovae.VAE(digits.event_shape, 8)
    pyrovae.fit(vae, digits, epochs=5, learning_rate=3e-3, compile=False)
    return vae


def test_a_model_is_assessed(trained, digits, tmp_path):
    before = torch.get_rng_state()
    found = quality.assess(trained, digits.train, digits.test, 150)
    assert torch.equal(torch.get_rng_state(), before)
    files.write_json(tmp_path / "quality.json", found)
    assert json.loads((tmp_path / "quality.json").read_text()) == found
    assert found == quality.assess(trained, digits.train, digits.test, 150)
    assert found != quality.assess(trained, digits.train, digits.test, 150, seed=1)
    assert (found["features"], found["binarize"], found["rows"]) == ("pixels", "dynamic", 150)
    assert found["reconstructions"]["window"] == 7
    assert 0.3 < found["reconstructions"]["ssim"]["value"] < 0.95
    for name in ("precision", "density", "coverage"):
        assert found["samples"][name]["value"] < found["data"][name]["value"]
    assert found["data"]["frechet"]["value"] < found["samples"]["frechet"]["value"]
    assert found["memorisation"]["c_t"] > 0  # these samples are worse than data, and no copies


def emitting(rows):
    """Programs whose samples are these rows."""

    def model(x=None, n=1):
        if x is None:
            return rows[:n]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=z.sum(-1)[..., None, None, None] + 0 * x).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).expand([len(x), 2]).to_event(1))

    return model, guide


def test_a_model_that_copies_is_found(digits):
    """By all else its samples look perfect."""
    settled = replace(digits.train, binarize="threshold")
    rows = settled[torch.arange(200)].repeat_interleave(2, 0)
    found = quality.assess(emitting(rows), settled, replace(digits.test, binarize="threshold"), 300)
    assert found["memorisation"]["c_t"] < -10
    assert found["memorisation"]["farther"]["value"] < 0.1
    assert found["samples"]["precision"]["value"] > 0.9


def test_reconstructions_without_an_error_are_numbers_that_json_holds(trained, digits, monkeypatch):
    monkeypatch.setattr(quality, "reconstruct", lambda programs, x: x)
    found = quality.assess(trained, digits.train, digits.test, 20)["reconstructions"]
    assert found["ssim"] == pytest.approx({"value": 1, "standard_error": 0}, abs=1e-15)  # of some images one ulp off
    assert math.isnan(found["psnr"]["value"])


def test_features_are_what_is_compared(trained, digits):
    def brightness(x):
        return x.flatten(1).mean(1, keepdim=True)

    found = quality.assess(trained, digits.train, digits.test, 150, features=brightness)
    assert found["features"] == "brightness"
    pixels = quality.assess(trained, digits.train, digits.test, 150)
    assert found["reconstructions"] == pixels["reconstructions"]
    assert found["samples"]["frechet"]["value"] < 0.01 < pixels["samples"]["frechet"]["value"]


@pytest.mark.parametrize("given", [{"num_classes": 3}, {"label_shape": 1}], ids=["p(y)", "no p(y)"])
def test_vectors_with_labels_are_assessed(given):
    y = torch.arange(60) % 3 if "num_classes" in given else torch.randn(60, 1)
    vae, data = ConditionalVAE(5, 2, likelihood=Normal, **given), Split(torch.randn(60, 5), y)
    found = quality.assess(vae, data, data, 40)
    assert found["reconstructions"] == {}
    assert found["memorisation"]["farther"]["value"] == 1  # the held-out rows are the training ones


def test_what_cannot_be_assessed_is_refused(digits):
    vae, x = pyrovae.VAE(4, 2), from_arrays(binary(60))
    with pytest.raises(ValueError, match="n: expected at most 12, the rows of the smaller part, found 13"):
        quality.assess(vae, x.train, x.test, 13)
    with pytest.raises(ValueError, match="k: expected fewer than the 4 rows"):
        quality.assess(vae, x.train, x.test, 4)
    with pytest.raises(ValueError, match="n: expected an integer >= 2, found 1"):
        quality.assess(vae, x.train, x.test, 1)
    with pytest.raises(ValueError, match=r"expected a model that generates n data.*complete\(x\)"):
        quality.assess(CompletionVAE(digits.event_shape, 2), digits.train, digits.test, 20)


def test_samples_are_drawn_beside_what_is_near_them(digits):
    x = digits.test[:10]
    distances, rows = quality.nearest(x, x, 4)
    figure = plots.neighbours(x.numpy(), x[rows].numpy(), distances[:, 1].numpy())
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_allclose(shown[0], shown[1][:, :8])  # the nearest to each is itself
    assert [text.get_text() for text in figure.axes[0].texts] == [f"distance {each:.2f}" for each in distances[:, 1]]


def test_tensors_are_data_too_and_loaders_are_refused(linear):
    train, test = linear.x, linear.evidence.sample((30,))
    found = quality.assess(linear.vae, train, test, 20)
    assert found == quality.assess(linear.vae, Split(train), Split(test), 20)
    loader = torch.utils.data.DataLoader(train)
    with pytest.raises(ValueError, match="or a Dataset, whose rows can be chosen, found a DataLoader"):
        quality.assess(linear.vae, loader, test, 20)
    one, other = (
        pyrovae.examine(linear.vae, *data, ["quality"], 50).numbers["quality"]
        for data in ((test, train), (Split(test), Split(train)))
    )
    assert one == other
    assert one["rows"] == 30
    with pytest.raises(ValueError, match="found a DataLoader"):
        pyrovae.examine(linear.vae, loader)
