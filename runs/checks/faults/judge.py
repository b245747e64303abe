"""What the end of a process is called: right, refused in one line, or wrong and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RIGHT, REFUSED = "right", "refused"
# Exit statuses of a command that refuses: 1 in the middle of work, 2 for bad input.
REFUSALS = (1, 2)
_WARNING = re.compile(r"^\S.*:\d+: \w*Warning: ")


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Args:
        status: its exit status; below 0 the signal that ended it, None where it did not end in time.
        errors: what it wrote to stderr.
        value: what it answered.
        left: the processes that it left behind.
    """

    status: int | None
    errors: str = ""
    value: Any = None
    left: tuple[str, ...] = ()


def lines(errors: str) -> list[str]:
    """The lines on stderr without Python's warnings, which take a line and the indented line of code below it."""
    kept: list[str] = []
    of_warning = False
    for line in errors.splitlines():
        of_warning = bool(_WARNING.match(line)) or (of_warning and line.startswith(" "))
        if line.strip() and not of_warning:
            kept.append(line)
    return kept


def warnings(errors: str) -> list[str]:
    """The first lines of the warnings on stderr."""
    return [line for line in errors.splitlines() if _WARNING.match(line)]


def disaster(outcome: Outcome) -> str:
    """What is wrong with an end whatever was asked; empty where nothing is."""
    if outcome.status is None:
        return "a hang"
    if outcome.status < 0:
        return f"ended by signal {-outcome.status}"
    if "Traceback" in outcome.errors:
        return f"a traceback: {lines(outcome.errors)[-1]:.200}"
    return f"left processes: {', '.join(outcome.left)}" if outcome.left else ""


def refusal(outcome: Outcome, names: Sequence[str]) -> str:
    """What is wrong with a refusal, which is one line that names one of `names`; empty where nothing is."""
    said = lines(outcome.errors)
    if outcome.status not in REFUSALS:
        return f"status {outcome.status}: {' / '.join(said):.200}"
    if len(said) != 1:
        return f"{len(said)} lines on stderr: {' / '.join(said):.300}"
    if not any(name in said[0] for name in names):
        return f"a line that names none of {', '.join(names)}: {said[0]:.200}"
    return ""


def judge(outcome: Outcome, expected: Any, names: Sequence[str] | None = None) -> str:
    """RIGHT, REFUSED, or what is wrong. Another number that a warning explains by one of the names is REFUSED, too.

    Args:
        outcome: the end of the process; its `value` is to be `expected`, that of an undisturbed one.
        names: what a refusal may name: a file or an option. None where nothing is to be refused.
    """
    if fault := disaster(outcome):
        return fault
    if outcome.status == 0:
        if outcome.value == expected:
            return RIGHT
        said = any(name in warning for warning in warnings(outcome.errors) for name in names or ())
        return REFUSED if said else f"another number: {difference(outcome.value, expected)}"
    if names is None:
        return f"refused, status {outcome.status}: {' / '.join(lines(outcome.errors)):.300}"
    return refusal(outcome, names) or REFUSED


def difference(value: Any, expected: Any, name: str = "") -> str:
    """Where two answers differ first."""
    if isinstance(value, dict) and isinstance(expected, dict):
        if value.keys() != expected.keys():
            return f"{name} has {sorted(value.keys() ^ expected.keys())} on one side"
        for key in value:
            if value[key] != expected[key]:
                return difference(value[key], expected[key], f"{name}.{key}")
    return f"{name} {value!r:.100} in place of {expected!r:.100}".lstrip()
