"""Results as text: Markdown tables; an examination with one line for each number, with its unit and its error."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from pyrovae.evaluation.parts import PARTS


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], names: int = 1) -> str:
    """A table in Markdown; the first `names` columns name the row."""
    sides = ["left"] * names + ["right"] * (len(heads) - names)
    return tabulate([[str(cell) for cell in row] for row in rows], heads, "pipe", disable_numparse=True, colalign=sides)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over repetitions; a single value has none."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def shown(number: Mapping[str, float] | float | None, digits: int) -> str:
    """A number with its error, if it has one."""
    if number is None:
        return ""
    value, error = (number["value"], number["standard_error"]) if isinstance(number, Mapping) else (number, math.nan)
    return ("" if math.isnan(value) else f"{value:.{digits}f}") + (
        "" if math.isnan(error) else f" ± {error:.{digits}f}"
    )


def placed(text: str, name: str, content: str) -> str:
    """The text with this content between its marks <!-- NAME --> and <!-- end of NAME -->.

    Raises:
        ValueError: the text does not contain both marks, once and in this order.
    """
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"expected a text with {begin.strip()} and {end.strip()}, found none")
    return f"{before}{begin}{content}{end}{after}"


def evaluation(results: dict[str, Any]) -> str:
    """The numbers of an `evaluate`, one in each line, with their standard errors over the rows."""
    return "\n".join(_numbers(results))


def _numbers(results: dict[str, Any]) -> Iterator[str]:
    yield f"\n{results['split']} data, {results['rows']} rows, nats per datum ({results['measure']}):"
    latent = results["kl_by_site"]
    seen = [f"{site} where known" if site in latent else site for site in sorted(results["observed_by_site"])]
    x = f"log p({', '.join(seen)})"
    of_draws = f" at {results['draws']} w" if "draws" in results else ""
    for name, label in (
        ("elbo", "ELBO"),
        ("reconstruction", "reconstruction, E_q of the observed sites"),
        ("kl", f"KL(q || p) of the latents, {results['kl_estimator']}"),
        ("log_likelihood", f"{x}, {results['particles']} importance samples{of_draws}"),
    ):
        if not math.isnan(results[name]["value"]):
            yield f"  {label:42} {results[name]['value']:9.3f} +- {results[name]['standard_error']:.3f}"
    if bits := results["bits_per_dimension"]:
        yield f"  {'the same, in bits per dimension':42} {bits['value']:9.3f} +- {bits['standard_error']:.3f}"
    if len(latent) > 1:
        for site, kl in latent.items():
            yield f"  {f'KL of {site}':42} {kl['value']:9.3f} +- {kl['standard_error']:.3f}"
    if accuracy := results.get("accuracy"):
        yield f"  {'accuracy of q(y|x)':42} {accuracy['value']:9.3f} +- {accuracy['standard_error']:.3f}"
    for name, value in results.get("clusters", {}).items():
        if name in _AGREEMENT:
            yield f"  {_AGREEMENT[name]:42} {value:9.3f}"
    for site, active in results.get("active_units", {}).items():
        yield f"  {f'active units of {site}':42} {active:5d} of {results['latents'][site]}"


_AGREEMENT = {
    "accuracy": "clusters' accuracy, matched to labels",
    "nmi": "their normalised mutual information",
    "ari": "their adjusted Rand index",
}


def examination(parts: dict[str, Any]) -> str:
    """The parts of an `examine`: verdicts and refusals in words, numbers in a column."""
    return "\n".join(line for name, numbers in parts.items() for line in PARTS[name].text(numbers))
