"""What may be compared is ranked; what may not is refused, with the reason."""

import importlib.util
import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import binary

import pyrovae
from pyrovae import files
from pyrovae.evaluation.bits import bits_per_dimension
from pyrovae.evaluation.ranking import behind_best, kinds, rank
from pyrovae.likelihoods import measure
from pyrovae.programs.importance import log_likelihood
from pyrovae.scores import paired

BINARY, DENSITY, LEVELS = map(str, (measure.BINARY, measure.UNIT_INTERVAL, measure.grey_levels(256)))
MEASURES = (measure.SOFT_TARGETS, measure.UNIT_INTERVAL, measure.grey_levels(256), measure.grey_levels(16))
FIELDS = {str(each): asdict(each) for each in MEASURES}


def score(log_p, of=BINARY, bits=None, **other):
    """An evaluation.json."""
    about = {"data": "mnist", "split": "test", "binarize": "dynamic", "rows": 100, "measure": of}
    about |= {"particles": 100, "weights": "best", "data_sha256": "e0", "measure_fields": FIELDS.get(of, {})}
    number = {"log_likelihood": {"value": log_p, "standard_error": 0.25}}
    in_bits = None if bits is None else {"value": bits, "standard_error": 0.125}
    return about | number | {"bits_per_dimension": in_bits} | other


def names(rows):
    return [row["name"] for row in rows]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_the_best_is_first_whatever_the_order(order):
    log_p = {"a": -95.0, "b": -97.0, "c": -102.0}
    ranked = rank({name: score(log_p[name]) for name in order})
    assert names(ranked) == ["a", "b", "c"]
    assert ranked[1] == {"name": "b", "value": -97.0, "standard_error": 0.25}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("measure", DENSITY),
        ("data", "fashion-mnist"),
        ("split", "train"),
        ("binarize", "fixed"),
        ("rows", 99),
        ("data_sha256", "1f"),
        ("particles", 5000),
        ("weights", "last"),
    ],
)
def test_unlike_ones_are_refused_with_the_reason(field, value):
    one, other = score(-95.0), score(-97.0) | {field: value}
    found = f"b and c: expected the same {field}, found {one[field]!r} and {value!r}"
    with pytest.raises(ValueError) as error:
        rank({"b": one, "a": one, "c": other})
    assert str(error.value).startswith(found)
    assert [names(kind) for kind in kinds([{"name": "b"} | one, {"name": "c"} | other, {"name": "a"} | one])] == [
        ["b", "a"],
        ["c"],
    ]


def test_an_evaluation_without_a_digest_is_ranked_by_the_other_fields():
    """But it makes nothing alike of two that are not."""
    old = score(-96.0)
    del old["data_sha256"]
    found = {"old": old, "a": score(-95.0), "b": score(-97.0)}
    assert names(rank(found)) == ["a", "old", "b"]
    found["b"] |= {"data_sha256": "1f"}
    with pytest.raises(ValueError, match="a and b: expected the same data_sha256, found 'e0' and '1f'"):
        rank(found)
    assert len(kinds(found.values())) == 3
    assert len(kinds([found["old"], found["b"]])) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            score(-9.0, "cross-entropy of soft targets, no likelihood"),
            "b: expected the measure of a likelihood, found 'c",
        ),
        (score(-9.0, f"{BINARY}, at one point z: no likelihood"), "b: expected the measure of a likelihood"),
        (score(-9.0, None), r'found None; .* state it: \{\*\*evaluation, "measure": "density"\}'),
        (score(None), "b: expected a number, found a log_likelihood of None"),
        (score(math.nan), "b: expected a number, found a log_likelihood of nan"),
        ({"measure": BINARY}, "b: expected a log_likelihood, found none for a mass over binary values"),
    ],
)
def test_what_is_no_score_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        rank({"a": score(-95.0), "b": bad})
    if bad["measure"] == BINARY and "data" in bad:
        (kind,) = kinds([{"name": "b"} | bad, {"name": "a"} | score(-95.0)])
        assert names(kind) == ["a", "b"]


def test_bits_compare_levels_with_densities_of_them():
    """In nats the first would win by hundreds, and by the unit alone."""
    found = {
        "density": score(1000.0, DENSITY, 2.5, binarize="dequantize"),
        "levels": score(-900.0, LEVELS, 1.75, binarize="none"),
    }
    assert names(rank(found, "bits_per_dimension")) == ["levels", "density"]
    with pytest.raises(ValueError, match="density and levels: expected the same measure"):
        rank(found)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (score(-90.0), "b: expected a bits_per_dimension, found none for a mass over binary values"),
        (score(90.0, DENSITY, binarize="none"), r"found none for a density over \[0, 1\], binarize='none'"),
        (score(-90.0, "mass over 16 levels", 0.7), "expected the same levels, found 256 and 16"),
        (score(-90.0, LEVELS, 0.7, data="digits"), "expected the same data, found 'mnist' and 'digits'"),
    ],
)
def test_what_has_no_common_bits_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        rank({"a": score(-900.0, LEVELS, 1.75), "b": other}, "bits_per_dimension")


def test_levels_of_an_earlier_version_are_not_guessed():
    """It kept the measure as text alone: 16 levels need fewer bits than 256, and are no better for it."""
    old = {name: value for name, value in score(-90.0, "mass over 16 levels", 0.7).items() if name != "measure_fields"}
    with pytest.raises(ValueError, match="expected the same levels, found 256 and 'mass over 16 levels'"):
        rank({"a": score(-900.0, LEVELS, 1.75), "b": old}, "bits_per_dimension")
    assert rank({"a": old, "b": old | {"bits_per_dimension": {"value": 0.5}}}, "bits_per_dimension")[0]["value"] == 0.5


def test_the_bits_are_those_of_the_codes():
    """A density that is flat over bytes with noise, and a flat mass over bytes, need the same eight bits."""
    assert bits_per_dimension(0.0, 5, measure.UNIT_INTERVAL, True) == 8
    assert bits_per_dimension(-5 * math.log(256), 5, measure.grey_levels(256)) == 8


def test_differences_are_paired():
    """What the rows share is in no difference; a constant lead has no error."""
    rows = 5 * torch.randn(100)
    noise = torch.randn(100)
    ranked = rank(
        {"c": score(-3.0), "a": score(-1.0), "b": score(-2.0)},
        scores={"a": rows, "b": rows - 1, "c": rows - 2 + noise},
    )
    behind = {row["name"]: row["behind"] for row in ranked}
    assert behind["a"] == {"value": 0, "standard_error": 0, "margin": 0}
    assert behind["b"]["value"] == pytest.approx(1)
    assert behind["b"]["standard_error"] == pytest.approx(0, abs=1e-6)
    assert behind["c"]["value"] == pytest.approx(2 - noise.mean().item(), rel=1e-5)
    assert behind["c"]["standard_error"] == pytest.approx(noise.std().item() / 10, rel=1e-5)
    for bad in ({"a": rows}, {"a": rows, "b": rows[:5]}, {"a": rows[:, None], "b": rows[:, None]}):
        with pytest.raises(ValueError, match=r"scores: expected one for each datum, \(N,\), for each evaluation"):
            rank({"a": score(-1.0), "b": score(-2.0)}, scores=bad)
    with pytest.raises(ValueError, match="scores: expected those of the 100 rows of the evaluations, found 99"):
        rank({"a": score(-1.0), "b": score(-2.0)}, scores={"a": rows[1:], "b": rows[1:]})
    assert "behind" in rank({"a": score(-1.0, rows=None)}, scores={"a": rows[1:]})[0]


def test_the_error_of_a_paired_difference_is_over_data_and_seeds():
    """d = 1 + datum + seed: of 4 data -1, 1, -1, 1 and of 3 seeds -1, 0, 1."""
    data, seeds = torch.tensor([-1.0, 1.0, -1.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    found = paired(1 + data + seeds[:, None])
    assert found["value"] == pytest.approx(1)
    assert found["standard_error"] == pytest.approx(math.sqrt((4 / 3) / 4 + 1 / 3))
    assert found["margin"] == pytest.approx(math.hypot(3.18245 * math.sqrt((4 / 3) / 4), 4.30265 * math.sqrt(1 / 3)))
    assert paired((1 + data)[None])["standard_error"] == pytest.approx(math.sqrt((4 / 3) / 4))


def of_seeds(trials, seeds, sigma, lead=0.0, n=100):
    """Differences of two choices, each trained with some seeds: the seeds' own, of unit sd, the data's and the rest."""
    noise = torch.Generator().manual_seed(seeds)
    of_seed, of_datum, both = (
        torch.randn(trials, *shape, generator=noise) for shape in ((seeds, 1), (1, n), (seeds, n))
    )
    return [paired(each) for each in lead + of_seed + sigma * math.sqrt(n) * (of_datum + both) / math.sqrt(2)]


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_equal_choices_one_in_twenty_is_clear(seeds, sigma):
    """The binomial error of 800 trials is .008. Two standard errors, where the seeds rule, are not enough."""
    found = of_seeds(800, seeds, sigma)
    rates = [
        sum(abs(d["value"]) > d[of] * times for d in found) / 800
        for of, times in (("margin", 1), ("standard_error", 2))
    ]
    assert rates[0] < 0.074
    if sigma < 0.5:
        assert rates[1] > {2: 0.14, 3: 0.1, 5: 0.07}[seeds]
        assert rates[0] > 0.01


CHECKS = Path(__file__).parents[1] / "runs" / "checks" / "many_choices.py"


@pytest.fixture(scope="module")
def many_choices():
    spec = importlib.util.spec_from_file_location("many_choices", CHECKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("rows", [0.0, 1.0])
@pytest.mark.parametrize(("choices", "seeds"), [(5, 3), (10, 3), (20, 5)])
def test_of_equal_choices_a_table_in_twenty_shows_a_lead(many_choices, choices, seeds, rows):
    """However many there are. 400 tables: three binomial errors above .05 is .083. By pairs it is far more often."""
    assert many_choices.wrong(400, choices, seeds, 1.0, rows) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    if not rows:
        by_pairs = many_choices.wrong(400, choices, seeds, 1.0, rows, many_choices.by_pairs)
        assert by_pairs > {(5, 3): 0.13, (10, 3): 0.3, (20, 5): 0.5}[choices, seeds]


@pytest.mark.slow
@pytest.mark.parametrize("choices", [5, 10, 20])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_rates_that_are_written_down(many_choices, choices, seeds):
    """Equal spreads: at most 5 %, with three binomial errors of 3000 tables."""
    for rows in (0.0, 1.0):
        assert many_choices.wrong(3000, choices, seeds, 1.0, rows) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


def test_the_margin_of_many_is_tukeys():
    """Three choices and three seeds by hand: residuals of choice x seed, q(3, 4) = 5.0402 (tables of Tukey's range)."""
    of_seeds = torch.tensor([[0.0, 3.0, 6.0], [1.0, 3.0, 8.0], [5.0, 7.0, 12.0]])
    found = behind_best(of_seeds[:, :, None].expand(3, 3, 4))
    means = [3.0, 4.0, 8.0]
    assert [each["value"] for each in found] == pytest.approx([8 - mean for mean in means])
    square = _mean_square(of_seeds)
    own = torch.stack([(of_seeds[2] - each).var() for each in of_seeds])
    margins = [5.0402 / math.sqrt(2) * math.sqrt(max(2 * square, variance.item()) / 3) for variance in own]
    assert [each["margin"] for each in found[:2]] == pytest.approx(margins[:2], rel=1e-4)
    assert (found[2]["value"], found[2]["margin"]) == (0, 0)


def _mean_square(scores):
    """The residual mean square of a two-way layout, by least squares on indicators."""
    choices, seeds = scores.shape
    design = torch.tensor(
        [
            [float(a == c) for a in range(choices)] + [float(b == s) for b in range(seeds)]
            for c in range(choices)
            for s in range(seeds)
        ]
    )
    fitted = design @ torch.linalg.pinv(design) @ scores.flatten()
    return ((scores.flatten() - fitted).square().sum() / ((choices - 1) * (seeds - 1))).item()


def test_of_two_choices_the_margin_is_that_of_their_pair():
    scores = torch.randn(2, 4, 30) + torch.tensor([1.0, 0.0])[:, None, None]
    (_, second), pair = behind_best(scores), paired((scores[0] - scores[1]).double())
    assert second == pytest.approx(pair, rel=1e-5)


def test_a_lead_of_many_errors_is_clear():
    for seeds, lead, rate in ((2, 40.0, 0.9), (3, 10.0, 0.95), (5, 5.0, 0.95)):
        assert sum(d["value"] > d["margin"] for d in of_seeds(200, seeds, 0.3, lead)) > rate * 200


def test_models_are_ranked_by_what_evaluate_gives(tmp_path):
    x = binary(40)
    models = {str(d): pyrovae.VAE(4, d) for d in (1, 2, 3)}
    found = {name: pyrovae.evaluate(model, x, 10) for name, model in models.items()}
    scores = {name: log_likelihood(model, x, 10)[0] for name, model in models.items()}
    ranked = rank(found, scores=scores)
    assert [row["value"] for row in ranked] == sorted((row["value"] for row in ranked), reverse=True)
    for row in ranked:
        assert row["value"] == pytest.approx(found[row["name"]]["log_likelihood"]["value"])
        assert row["behind"]["value"] == pytest.approx(ranked[0]["value"] - row["value"], abs=1e-5)
    files.write_json(tmp_path / "ranking.json", ranked)
    assert json.loads((tmp_path / "ranking.json").read_text()) == ranked


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="unknown score 'elb'"):
        rank({"a": score(-1.0)}, "elb")
