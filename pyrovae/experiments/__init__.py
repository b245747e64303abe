"""Experiments: questions, each answered with numbers and pictures, in the folder runs/experiments.

NAME/experiment.py        begins with the question, in one sentence; `experiment(data, seeds)` answers it
NAME/DATA/findings.json   its numbers, settings and command
NAME/DATA/findings.md     the page with the numbers and the sentences of experiment.py; `write_page` writes it again
NAME/DATA/figures/        pictures; for an animation NAME.gif also one frame

The file also defines BUDGETS (settings by data set), CAPTION (what the first picture shows) and NOTES (a text below
each table). They are written by hand and true for any numbers; "{name}" stands for a setting.
"""

from pyrovae.experiments.errors import rate, rate_error, repeated, spread, with_error, with_test_error
from pyrovae.experiments.findings import OF_TESTS, OVER_BOTH, OVER_SEEDS, Findings, Line, Number, Table
from pyrovae.experiments.folder import FILE, found
from pyrovae.experiments.pages import answered, gallery, write_page
from pyrovae.experiments.running import check, run
from pyrovae.experiments.stored import numbers

__all__ = [
    "FILE",
    "OF_TESTS",
    "OVER_BOTH",
    "OVER_SEEDS",
    "Findings",
    "Line",
    "Number",
    "Table",
    "answered",
    "check",
    "found",
    "gallery",
    "numbers",
    "rate",
    "rate_error",
    "repeated",
    "run",
    "spread",
    "with_error",
    "with_test_error",
    "write_page",
]
