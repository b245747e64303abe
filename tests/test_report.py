"""What is printed of an examination: numbers with units in a column, and no more than a screen of them."""

import json

import pytest
import torch

from pyrovae import VAE, data, examine
from pyrovae.evaluation.parts import PARTS, Diagnosis, Interval
from pyrovae.runs import report


@pytest.fixture(scope="module")
def found():
    digits = data.load("digits", binarize="threshold")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARTS, "diagnosis", Diagnosis(particles=50, steps=3))
        patch.setitem(PARTS, "interval", Interval(chains=2, temperatures=10))
        numbers = examine(VAE(digits.event_shape, 2), digits.test, digits.train, rows=50).numbers
    return json.loads(json.dumps(numbers))


def test_every_number_that_is_named_is_there(found):
    shown = report.examination(found)
    assert all(line.words.partition("{")[0] in shown for part in PARTS.values() for line in part.lines)
    assert len(shown.splitlines()) <= 52
    assert "{" not in shown


def test_numbers_have_their_units_and_stand_in_a_column(found):
    found["diagnosis"]["kl"] = {"value": 0.25, "standard_error": 0.125, "monte_carlo_error": 1.0}
    found["diagnosis"]["k"] |= {"unusable": 3, "largest": None}
    found["information"]["saturated"] = True
    found["quality"]["reconstructions"]["psnr"] = {"value": 8.5, "standard_error": None}
    lines = report.examination(found).splitlines()
    assert f"  {'KL(q(z|x) || p(z|x)), from below':44}     0.250 +- 0.125 nats" in lines
    assert f"  {'k-hat above 0.41: importance sampling fails':44}     3 rows of 50" in lines
    assert f"  {'largest k-hat':44}      none" in lines
    assert f"  {'near its ceiling, so only a lower bound':44}   yes" in lines
    assert f"  {'PSNR of the reconstructions':44}     8.500 dB" in lines
    assert any(line.startswith("interval, 5 of 359 rows, at random: ") for line in lines)
    assert any(line.startswith("  c_t (below -3: copies) ") for line in lines)


def test_a_refusal_is_its_reason():
    assert report.examination({"quality": {"refused": "no data"}}) == "\nquality: refused: no data"


def test_what_is_placed_takes_the_place_of_what_was():
    text = "a\n<!-- it -->\nold\n<!-- end of it -->\nb"
    once = report.placed(text, "it", "new | 1.5")
    assert once == "a\n<!-- it -->\nnew | 1.5\n<!-- end of it -->\nb"
    assert report.placed(once, "it", "old") == text
    with pytest.raises(ValueError, match="<!-- other -->"):
        report.placed(text, "other", "new")
