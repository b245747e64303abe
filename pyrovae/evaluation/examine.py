"""One call for what can be asked of a trained model beyond its score: is the guide or the model at fault?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyrovae import checks
from pyrovae.data.split import Data, choosable
from pyrovae.evaluation import diagnostics
from pyrovae.evaluation.parts import PARTS
from pyrovae.programs.pair import Programs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 50  # rows

# A p-value of the ranks below which a guide is not the posterior, whatever its weights say.
REJECTED = 1e-3

# What stands between a verdict and what other parts have to say against it.
BUT = "; but "


@dataclass
class Examination:
    """Numbers that JSON can hold, by part, and figures by name."""

    numbers: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


def examine(
    programs: Programs,
    data: Data,
    train: Data | None = None,
    parts: Sequence[str] = (),
    rows: int = 200,
    seed: int = 0,
) -> Examination:
    """What is asked for of a model and its guide, on rows of the data at random: the same for all models and seeds.

    diagnosis: k-hat, effective samples, KL to the posterior, the gaps, and a verdict; law: whether the densities
    integrate to one, and the model draws what it scores, which no part that asks the guide can tell; information:
    I(x; z), the aggregate posterior, total correlation; calibration: ranks of simulated latents, which may contradict
    the verdict, predictive checks; interval: log p(x) by annealing, and the gap of bidirectional Monte Carlo on
    simulated data; quality: samples against training and held-out rows, reconstructions. A part that the programs do
    not allow says so: {"refused": reason}. `of_rows` is how many rows there were to choose from.

    Args:
        programs: model and guide.
        data: held-out rows: a Split, a tensor or a Dataset.
        train: what the model was trained on, for `quality`; without it that part is refused.
        parts: of PARTS; none are all of them.
        rows: of the data; the interval takes a tenth of them, `simulation_based` and `quality` five times as many.
        seed: of the noise.
    """
    *_, (found, _) = examining(programs, data, train, parts, rows, seed)
    return found


def examining(
    programs: Programs, data: Data, train: Data | None, parts: Sequence[str], rows: int, seed: int
) -> Iterator[tuple[Examination, dict[str, Figure]]]:
    """The same, as far as it has come after each part, and the figures of that part: should the next one fail, this
    much is found."""
    checks.integer("rows", rows, LEAST)
    data, train = choosable(data), None if train is None else choosable(train)
    found = Examination()
    for name in parts or PARTS:
        checks.member("part", name, PARTS)
    for name in parts or PARTS:
        try:
            part = PARTS[name]
            numbers, figures = part.compute(programs, data, train, rows, seed)
            numbers |= {"of_rows": len(data)} if part.looks_at_rows else {}
        except ValueError as error:
            numbers, figures = {"refused": checks.reason(error)}, {}
        found.numbers[name] = numbers
        found.figures |= figures
        _weigh(found.numbers)
        yield found, figures


def _weigh(numbers: dict[str, Any]) -> None:
    """What one part says of another's verdict.

    Ranks see the modes that weights at the guide's own draws do not: they may contradict a good verdict. Yet they see
    guide and sampler alike, and blame neither alone: only the law tells which. Where a density does not integrate to
    one, no log p(x) is a log-likelihood.
    """
    diagnosis, calibration = numbers.get("diagnosis", {}), numbers.get("calibration", {})
    p = calibration.get("simulation_based", {}).get("p_value", 1.0)
    doubts = [f"{law}: log p(x) is not that of what it draws" for law in _law_at_fault(numbers)]
    if p < REJECTED:
        calibration["verdict"] = f"ranks of simulated latents are not uniform (p = {p:.1g}): {_blame(numbers)}"
        if diagnosis.get("verdict", "").startswith(diagnostics.CLOSE):
            doubts.append(calibration["verdict"])
    if "verdict" in diagnosis:
        diagnosis["verdict"] = BUT.join([diagnosis["verdict"].split(BUT)[0], *doubts])


def _law_at_fault(numbers: dict[str, Any]) -> list[str]:
    found = numbers.get("law", {})
    return [found["verdict"]] if found.get("faults") else []


def _blame(numbers: dict[str, Any]) -> str:
    """Whom ranks that are not uniform blame, by what the law says."""
    if _law_at_fault(numbers):
        return "the law at fault makes them so, and the guide may, too"
    if numbers.get("law", {}).get("passed"):
        return "the guide is not the posterior on the model's own data"
    return "the guide is not the posterior on the model's own data, or the model does not draw what it scores (see law)"
