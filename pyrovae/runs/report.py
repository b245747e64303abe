"""Results in text: tables in Markdown; an examination in words, a line for each number, with its unit and its error."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from tabulate import tabulate


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], names: int = 1) -> str:
    """A table in Markdown; the first columns, one or so many, name their row."""
    sides = ["left"] * names + ["right"] * (len(heads) - names)
    return tabulate([[str(cell) for cell in row] for row in rows], heads, "pipe", disable_numparse=True, colalign=sides)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over repetitions; of one there is none."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def shown(number: Mapping[str, float] | float | None, digits: int) -> str:
    """A number with its error, where there are such."""
    if number is None:
        return ""
    value, error = (number["value"], number["standard_error"]) if isinstance(number, Mapping) else (number, math.nan)
    return ("" if math.isnan(value) else f"{value:.{digits}f}") + (
        "" if math.isnan(error) else f" ± {error:.{digits}f}"
    )


def placed(text: str, name: str, content: str) -> str:
    """The text with this content between its marks <!-- NAME --> and <!-- end of NAME -->.

    Raises:
        ValueError: the text does not hold both, once and in this order.
    """
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"expected a text with {begin.strip()} and {end.strip()}, found none")
    return f"{before}{begin}{content}{end}{after}"


def evaluation(results: dict[str, Any]) -> str:
    """The numbers of an `evaluate`, one a line, with their standard errors over the rows."""
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


class Line(NamedTuple):
    """A number of an examination: where it stands ("gaps.elbo"), what it is called, and what follows it.

    The unit may name other numbers of the same part: "of {particles} draws".
    """

    path: str
    words: str
    unit: str = ""


LINES = {
    "diagnosis": [
        Line("k.unusable", "k-hat above {k.threshold:.2f}: importance sampling fails", "rows of {rows}"),
        Line("k.median", "median k-hat"),
        Line("k.largest", "largest k-hat"),
        Line("ess", "effective sample size", "of {particles} draws"),
        Line("kl", "KL(q(z|x) || p(z|x)), from below", "nats"),
        Line("elbo", "ELBO", "nats"),
        Line("log_likelihood", "log p(x), {particles} importance samples", "nats"),
        Line("gaps.amortisation_gap", "amortisation gap: of the shared encoder", "nats"),
        Line("gaps.approximation_gap", "approximation gap: of the family", "nats"),
    ],
    "law": [
        Line("smallest_integral", "integral of a density, the smallest", "(law: 1)"),
        Line("largest_integral", "integral of a density, the largest", "(law: 1)"),
        Line("p_value", "p-value: draws are of their density"),
    ],
    "information": [
        Line("mutual_information", "I(x; z)", "nats"),
        Line("ceiling", "its ceiling, log of the rows", "nats"),
        Line("saturated", "near its ceiling, so only a lower bound"),
        Line("aggregate_kl", "KL(q(z) || p(z)) of the aggregate", "nats"),
        Line("kl", "their sum, the KL of the latents", "nats"),
        Line("total_correlation", "total correlation of the latents", "nats"),
    ],
    "calibration": [
        Line("simulation_based.p_value", "p-value: ranks are uniform", "over {simulation_based.rows} simulated rows"),
    ],
    "interval": [
        Line("log_likelihood", "log p(x) by annealing, {chains} chains", "nats"),
        Line("ess", "effective number of chains", "of {chains}"),
        Line("simulated.lower", "of simulated data: lower bound", "nats"),
        Line("simulated.upper", "of simulated data: upper bound", "nats"),
        Line("simulated.gap", "the gap between them", "nats"),
    ],
    "quality": [
        Line("memorisation.closer", "samples as near as 1 % of the test data are", "(copies: above the next)"),
        Line("memorisation.closer_of_test", "test data as near"),
        Line("memorisation.farther", "P(a sample is farther than test data)", "(as data: 0.5)"),
        Line("memorisation.c_t", "c_t (below -3: copies)"),
        *(
            Line(f"samples.{name}", f"{name} of the samples", f"(of data: {{data.{name}.value:.3f}})")
            for name in ("precision", "recall", "density", "coverage")
        ),
        Line("samples.frechet", "Fréchet distance of the {features}", "(of data: {data.frechet.value:.3f})"),
        Line("reconstructions.ssim", "SSIM of the reconstructions"),
        Line("reconstructions.psnr", "PSNR of the reconstructions", "dB"),
    ],
}


def examination(parts: dict[str, Any]) -> str:
    """The parts of an `examine`, one below the other: verdicts and refusals in words, numbers in a column."""
    return "\n".join(line for part, found in parts.items() for line in _part(part, found))


def _part(part: str, found: dict[str, Any]) -> Iterator[str]:
    if "refused" in found:
        yield f"\n{part}: refused: {found['refused']}"
        return
    yield f"\n{part}, {_chosen(found)}:" + (f" {found['verdict']}" if "verdict" in found else "")
    for path, words, unit in LINES[part]:
        for value in _at(found, path):
            yield f"  {_filled(words, found):44} {_number(value)} {_filled(unit, found)}".rstrip()
    for name, each in found.get("predictive", {}).get("statistics", {}).items():
        yield from _statistic(name, each)


def _chosen(found: dict[str, Any]) -> str:
    """How many rows, and of how many they were chosen; an older examination took the first."""
    if "entries" in found:
        return f"{found['entries']} distributions of each site"
    rows, of = found.get("rows") or found["predictive"]["rows"], found.get("of_rows", 0)
    return f"{rows} of {of} rows, at random" if of > rows else f"{rows} rows"


def _statistic(name: str, found: dict[str, Any]) -> Iterator[str]:
    """What a statistic is of the data, and the mean of what it is of replicates."""
    if isinstance(found["observed"], list):  # one for each row
        return
    of = ", ".join(
        f"{kind} {_value(found[kind]['mean']).strip()} (p-value {found[kind]['p_value']:.3f})"
        for kind in ("posterior", "prior")
        if kind in found
    )
    yield f"  {f'{name} of the data':44} {_value(found['observed'])}; of replicates: {of}"


def _at(found: dict[str, Any], path: str) -> list[Any]:
    """What stands there, if anything does."""
    *way, last = path.split(".")
    for key in way:
        found = found.get(key, {})
    return [found[last]] if last in found else []


class _Dotted:
    """What "{samples.recall.value}" in a text means: keys of dictionaries as attributes."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def __getattr__(self, key: str) -> Any:
        value = self.found[key]
        return _Dotted(value) if isinstance(value, dict) else value


def _filled(text: str, found: dict[str, Any]) -> str:
    return text.format_map({key: _Dotted(value) if isinstance(value, dict) else value for key, value in found.items()})


def _number(found: Any) -> str:
    """A number and its error; integers stand above the digits before the point."""
    if not isinstance(found, dict):
        return _value(found)
    error = found.get("standard_error", found.get("monte_carlo_error"))
    return _value(found["value"]) + ("" if error is None or error != error else f" +- {_value(error).strip()}")


def _value(value: Any) -> str:
    if value is None:
        return f"{'none':>9}"
    if isinstance(value, bool | int):
        return f"{('no', 'yes')[value] if isinstance(value, bool) else value:>5}"
    return f"{value:9.3f}" if abs(value) >= 1e-3 or value == 0 else f"{value:9.0e}"
