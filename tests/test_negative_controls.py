"""Faults that are planted in guide and model, and which part of `examine` catches which: each has to be caught."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import one_mode

from pyrovae import examine
from pyrovae.data import Split
from pyrovae.evaluation import parts
from pyrovae.evaluation.examine import _weigh
from pyrovae.runs import report

D, WIDTH, S = 2, 5, 0.7
ROWS = 100


class ConstantMissing(dist.Normal):
    """Without log sqrt(2 pi)."""

    def log_prob(self, value):
        return super().log_prob(value) + math.log(math.sqrt(2 * math.pi))


class Halved(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) / 2


class JacobianMissing(dist.LogNormal):
    """x = e^y, scored as y."""

    def log_prob(self, value):
        return super().log_prob(value) + value.log()


class SampledWider(dist.Normal):
    """Draws of one and a half times the standard deviation that it scores."""

    def rsample(self, sample_shape=()):
        return self.loc + 1.5 * (super().rsample(sample_shape) - self.loc)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)


def linear(prior=dist.Normal, likelihood=dist.Normal, factor=1.0, shift=0.0, bias=0.0):
    """p(z) = N(0, I), p(x|z) = N(Wz, s^2 I), with the exact posterior as guide: its variance times a factor, its mean
    moved by so many standard deviations; the mean of x is off by a bias where the model generates its data."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(WIDTH, D, generator=generator, dtype=torch.float64)
    covariance = torch.linalg.inv(w.T @ w / S**2 + torch.eye(D).double())
    sd = covariance.diagonal().sqrt()

    def model(x=None, n=1):
        zero = torch.zeros((), dtype=torch.float64)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", prior(zero, 1 + zero).expand([D]).to_event(1))
            mean = z @ w.T + (bias if x is None else 0)
            return pyro.sample("x", likelihood(mean, S).to_event(1), obs=x)

    def guide(x):
        y = x.log() if likelihood is JacobianMissing else x
        with pyro.plate("data", len(x)):
            mean = y @ w @ covariance / S**2 + shift * sd
            pyro.sample("z", dist.MultivariateNormal(mean, factor * covariance))

    z = torch.randn(400, D, generator=generator, dtype=torch.float64)
    x = z @ w.T + S * torch.randn(400, WIDTH, generator=generator, dtype=torch.float64)
    return SimpleNamespace(programs=(model, guide), x=x.exp() if likelihood is JacobianMissing else x)


def in_one_mode():
    """The posterior of two modes, with the guide in one, and data of the model."""
    model, guide = one_mode()
    return SimpleNamespace(programs=(model, guide), x=model(n=400).detach())


PARTS = {
    "diagnosis": lambda found: found["diagnosis"]["verdict"].startswith("guide at fault"),
    "law": lambda found: bool(found["law"]["faults"]),
    "ranks": lambda found: found["calibration"]["simulation_based"]["p_value"] < 1e-3,
    "interval": lambda found: beyond(found["interval"]["simulated"]["gap"]),
}
# What is planted, and the parts that catch it.
CONTROLS = {
    "nothing": (linear, set()),
    "guide's variance x 0.5": (lambda: linear(factor=0.5), {"diagnosis", "ranks"}),
    "guide's variance x 4": (lambda: linear(factor=4.0), {"diagnosis", "ranks"}),
    "guide's mean + 0.5 sd": (lambda: linear(shift=0.5), {"ranks"}),
    "guide's mean + 2 sd": (lambda: linear(shift=2.0), {"diagnosis", "ranks"}),
    "bias in model(n=) alone": (lambda: linear(bias=0.5), {"law", "ranks"}),
    "prior sampled unlike scored": (lambda: linear(prior=SampledWider), {"law", "ranks"}),
    "constant missing": (lambda: linear(likelihood=ConstantMissing), {"law"}),
    "Jacobian missing": (lambda: linear(likelihood=JacobianMissing), {"law"}),
    "log-probability halved": (lambda: linear(likelihood=Halved), {"diagnosis", "law"}),
    "posterior of two modes, guide in one": (in_one_mode, {"ranks", "interval"}),
}


def beyond(gap):
    """A gap of bidirectional Monte Carlo that is not 0: neither side would be a bound."""
    return abs(gap["value"]) > 3 * gap["standard_error"] + 0.05


def examined(name, interval=False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parts.PARTS, "diagnosis", parts.Diagnosis(particles=400, steps=10))
        patch.setitem(parts.PARTS, "interval", parts.Interval(chains=4, temperatures=60))
        torch.manual_seed(0)
        control = CONTROLS[name][0]()
        names = ["diagnosis", "law", "calibration"] + ["interval"] * interval
        return examine(control.programs, Split(control.x), parts=names, rows=ROWS).numbers


def caught(numbers):
    return {part for part, test in PARTS.items() if part != "interval" or part in numbers if test(numbers)}


@pytest.fixture(scope="module")
def found():
    return {name: examined(name) for name in CONTROLS}


@pytest.mark.parametrize("name", CONTROLS)
def test_each_part_catches_what_it_can_and_nothing_else(found, name):
    assert caught(found[name]) == CONTROLS[name][1] - {"interval"}
    assert found[name]["diagnosis"]["rows"] == ROWS


def test_every_fault_is_caught_and_no_part_is_idle():
    assert all(parts for name, (_, parts) in CONTROLS.items() if name != "nothing")
    assert set().union(*(parts for _, parts in CONTROLS.values())) == set(PARTS)
    assert len(CONTROLS) == 11


def test_integrals_are_those_of_the_fault(found):
    """sqrt(2 pi); and of sqrt N(x; m, s^2), (8 pi s^2)^(1/4)."""
    law = {name: found[name]["law"]["sites"]["x"] for name in CONTROLS if "x" in found[name]["law"]["sites"]}
    assert law["constant missing"]["largest_integral"] == pytest.approx(math.sqrt(2 * math.pi), rel=1e-6)
    assert law["log-probability halved"]["smallest_integral"] == pytest.approx((8 * math.pi * S**2) ** 0.25, rel=1e-6)
    assert law["nothing"]["smallest_integral"] == pytest.approx(1, abs=1e-6)


def test_the_constant_is_no_matter_of_the_sampler(found):
    assert found["constant missing"]["law"]["p_value"] > 1e-3
    assert found["Jacobian missing"]["law"]["p_value"] < 1e-10


def test_verdicts_tell_the_sampler_from_the_guide(found):
    """Ranks see both, and blame neither alone."""
    ranks = {name: numbers["calibration"].get("verdict", "") for name, numbers in found.items()}
    assert ranks["nothing"] == ranks["constant missing"] == ""
    assert ranks["guide's mean + 0.5 sd"].endswith("the guide is not the posterior on the model's own data")
    assert ranks["prior sampled unlike scored"].endswith("the law at fault makes them so, and the guide may, too")
    verdicts = {name: numbers["diagnosis"]["verdict"] for name, numbers in found.items()}
    assert "but law at fault: the sampler of 'z' is not its density" in verdicts["prior sampled unlike scored"]
    assert "law at fault: model(n=...) does not draw 'x' as model(x) scores it" in verdicts["bias in model(n=) alone"]
    assert "; but ranks of simulated latents" in verdicts["posterior of two modes, guide in one"]
    assert "; but" not in verdicts["nothing"] + verdicts["guide's mean + 2 sd"]
    assert sum(numbers["law"]["passed"] for numbers in found.values()) == 6


def test_ranks_alone_blame_neither():
    numbers = {"calibration": {"simulation_based": {"p_value": 1e-9}}}
    _weigh(numbers)
    assert numbers["calibration"]["verdict"].endswith(
        "the guide is not the posterior on the model's own data, or the model does not draw what it scores (see law)"
    )
    unchecked = numbers | {"law": {"passed": False, "faults": [], "verdict": "law of 'z' not checked: why"}}
    _weigh(unchecked)
    assert "or the model does not draw" in unchecked["calibration"]["verdict"]
    assert numbers["calibration"]["simulation_based"]["p_value"] == 1e-9


def test_a_verdict_is_weighed_once():
    numbers = examined("bias in model(n=) alone")
    before = numbers["diagnosis"]["verdict"]
    _weigh(numbers)
    assert numbers["diagnosis"]["verdict"] == before
    assert before.count("; but ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_the_whole_table(name):
    assert caught(examined(name, interval=True)) == CONTROLS[name][1]


def main():
    """The table of runs/checks/README.md."""
    rows = []
    for name in CONTROLS:
        here = caught(examined(name, interval=True))
        rows.append([name, *("caught" if part in here else "" for part in PARTS)])
    print(report.table(["planted", *PARTS], rows))


if __name__ == "__main__":
    main()
