"""Experiments: questions, each answered with numbers and pictures. In the folder runs/experiments:

NAME/experiment.py        begins with the question, in one sentence; `experiment(data, seeds)` answers it
NAME/DATA/findings.json   its numbers, the settings and the command that made them
NAME/DATA/findings.md     the same as a page, with the sentences of experiment.py: `write_page` makes it again
NAME/DATA/figures/        pictures; of an animation, NAME.gif, a frame of it too

Beside `experiment`, the file has BUDGETS (settings by data set), CAPTION (what the first picture shows) and NOTES (a
text below each table). They are written by hand and true whatever the numbers are; "{name}" stands for a setting.
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
