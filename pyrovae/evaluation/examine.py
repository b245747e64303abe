"""Examines a trained model in one call, beyond its score: is the guide or the model at fault?"""

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

# If the p-value of the ranks is below this, the guide is not the posterior, whatever its weights say.
REJECTED = 1e-3

# Separates a verdict from the objections of other parts.
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
    """Examine a model and its guide on random rows of the data; the rows are the same for all models and seeds.

    diagnosis: k-hat, effective samples, KL to the posterior, the gaps, and a verdict; law: whether the densities
    integrate to one and the samples follow them, which parts that use the guide cannot detect; information: I(x; z),
    the aggregate posterior, total correlation; calibration: ranks of simulated latents, which may contradict the
    verdict, and predictive checks; interval: log p(x) by annealing, and the gap of bidirectional Monte Carlo on
    simulated data; quality: samples compared with training and held-out rows, reconstructions. A part that the programs
    do not allow gives the reason: {"refused": reason}. `of_rows` is the number of rows to choose from.

    Args:
        programs: model and guide.
        data: held-out rows: a Split, a tensor or a Dataset.
        train: the training data, for `quality`; without them that part is refused.
        parts: names from PARTS; none means all.
        rows: rows of the data to use; the interval uses a tenth of them, `simulation_based` and `quality` five times as
            many.
        seed: seed of the noise.

    Example:
        >>> from pyrovae.evaluation.examine import examine
        >>> examination = examine(vae, splits.test, splits.train)  # doctest: +SKIP
        >>> examination.numbers["diagnosis"]["verdict"]  # doctest: +SKIP
        'guide close to the posterior where it draws: ...'
    """
    *_, (found, _) = examining(programs, data, train, parts, rows, seed)
    return found


def examining(
    programs: Programs, data: Data, train: Data | None, parts: Sequence[str], rows: int, seed: int
) -> Iterator[tuple[Examination, dict[str, Figure]]]:
    """The same as an iterator: the examination so far after each part, and that part's figures.

    So a failure of the next part does not lose them.
    """
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
    """Add to a verdict what other parts say about it.

    Ranks detect modes that weights at the guide's own draws do not, so they may contradict a good verdict. But ranks
    depend on guide and sampler alike, and cannot tell which is at fault: only the law can. If a density does not
    integrate to one, log p(x) is not a log-likelihood.
    """
    diagnosis, calibration = numbers.get("diagnosis", {}), numbers.get("calibration", {})
    p = calibration.get("simulation_based", {}).get("p_value", 1.0)
    doubts = [f"{law}: log p(x) does not describe its samples" for law in _law_at_fault(numbers)]
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
    """What non-uniform ranks mean, given the result of the law."""
    if _law_at_fault(numbers):
        return "the law at fault makes them so, and the guide may, too"
    if numbers.get("law", {}).get("passed"):
        return "the guide is not the posterior on the model's own data"
    return "the guide is not the posterior on the model's own data, or the model does not draw what it scores (see law)"
