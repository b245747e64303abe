"""Tables of a comparison: Markdown, one for each measure, and CSV."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from pyrovae.comparison.grid import AXES
from pyrovae.comparison.rows import Row, ranked_by, ranking
from pyrovae.evaluation.ranking import is_score
from pyrovae.runs.report import shown, table


class Column(NamedTuple):
    """A number of a row: its key, its title in a table, and its number of decimals."""

    name: str
    head: str
    digits: int


COLUMNS = (
    Column("elbo", "ELBO", 2),
    Column("log_likelihood", "log p(x)", 2),
    Column("behind", "behind the best, ± 95 %", 2),
    Column("kl", "KL", 2),
    Column("bits_per_dimension", "bits per dimension", 3),
    Column("accuracy", "accuracy", 4),
    Column("active_units", "active units", 1),
    Column("amortisation_gap", "amortisation gap", 2),
    Column("approximation_gap", "approximation gap", 2),
    Column("parameters", "parameters", 0),
    Column("steps", "steps", 0),
    Column("seconds", "seconds", 1),
    Column("seeds", "seeds", 0),
)
# With fewer seeds than this, the spread between trainings of one choice is unknown.
LEAST_SEEDS = 3
# Columns that a table omits if all rows have the same value.
ALIKE_IS_NOTHING = ("active_units", "parameters", "steps", "seeds")


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown tables, one for each measure, with the best row first."""
    for chosen in ranking(rows):
        (heads, alike), varied = columns(chosen), [option for option in AXES.values() if option in chosen[0]]
        lines = [[f"`{row[option]}`" for option in varied] + [text(row, each) for each in heads] for row in chosen]
        found = table([*varied, *(each.head for each in heads)], lines, len(varied))
        yield "\n\n".join(
            filter(None, [caption(rows, chosen), found, alike_text(alike), ranked_by(chosen), margin_text(chosen)])
        )


def text(row: Mapping[str, Any], column: Column) -> str:
    """A number with its standard error, or with its 95 % margin if it has one."""
    number = row.get(column.name)
    if isinstance(number, Mapping) and "margin" in number:
        number = {"value": number["value"], "standard_error": number["margin"]}
    return shown(number, column.digits)


def margin_text(chosen: Sequence[Mapping[str, Any]]) -> str:
    """The meaning of ± in "behind the best"."""
    ranked = [row for row in chosen if row.get("behind")]
    if not ranked[1:]:
        return ""
    seeds = len(ranked[0]["ranked_by"])
    of = f"the data and {seeds} seeds" if seeds > 1 else "the data alone, because there is one seed"
    few = f"; with fewer than {LEAST_SEEDS} seeds no winner is claimed" if seeds < LEAST_SEEDS else ""
    return (
        f"behind the best: mean difference ± its 95 % margin over {of}; it accounts for the choice of the best of "
        f"{len(ranked)} (Tukey's studentised range){few}"
    )


def alike_text(alike: Mapping[str, str]) -> str:
    """The columns with the same value in all rows, which a table omits."""
    return f"the same for all: {', '.join(f'{head} {text}' for head, text in alike.items())}" if alike else ""


def caption(rows: Sequence[Row], chosen: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of one table refer to, where tables differ, and how log p(x) was estimated."""
    differ = [field for field in ("data", "binarize", "rows") if len({row[field] for row in rows}) > 1]
    told = "".join(f", {field} {chosen[0][field]}" for field in differ)
    bound = f"; log p(x) by {chosen[0]['particles']} importance samples, a lower bound on average, "
    bound = bound + "tighter for a guide closer to the posterior" if is_score(chosen[0]) else ""
    gaps = f"; gaps of {chosen[0]['gap_rows']} random rows" if chosen[0].get("gap_rows") else ""
    return f"{chosen[0]['split']} data{told}, nats per datum: {chosen[0]['measure']}{gaps}{bound}"


def columns(chosen: Sequence[Row]) -> tuple[list[Column], dict[str, str]]:
    """The columns for which some row has a number; separately, the columns with the same value in all rows."""
    there = [each for each in COLUMNS if any(row.get(each.name) for row in chosen)]
    texts = {each: {text(row, each) for row in chosen} for each in there}
    alike = [each for each in there if each.name in ALIKE_IS_NOTHING and len(texts[each]) == 1 and chosen[1:]]
    return [each for each in there if each not in alike], {each.head: texts[each].pop() for each in alike}


def as_csv(rows: Sequence[Row]) -> str:
    """One line for each row; a number with an error has two columns, NAME and NAME_error, with a margin three."""
    flat = [dict(chain.from_iterable(_flat(name, value) for name, value in row.items())) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(chain.from_iterable(flat))), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield name, " ".join(map(str, value))
    elif isinstance(value, dict):
        yield name, value["value"]
        for part, suffix in (("standard_error", "error"), ("margin", "margin")):
            if part in value:
                yield f"{name}_{suffix}", None if math.isnan(value[part]) else value[part]
    else:
        yield name, value
