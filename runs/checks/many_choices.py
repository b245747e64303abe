"""How often tables of equal choices show a lead: python runs/checks/many_choices.py [--tables 4000].

Scores of k choices that are equal in expectation, S seeds and N data: a seed's own error of each choice, of unit
standard deviation (of one choice `noisy` times that), what a seed does to all choices, and what a datum does to each.
A table is wrong if any choice is behind the selected best by more than its margin.
"""

import argparse
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyrovae.evaluation.ranking import behind_best
from pyrovae.runs.report import table
from pyrovae.scores import paired

N = 100
CHOICES, SEEDS, NOISY, ROWS = (2, 5, 10, 20), (3, 5), (1.0, 3.0, 25.0), (0.0, 1.0)
Margins = Callable[[Tensor], list[dict[str, float]]]


def tables(count: int, choices: int, seeds: int, noisy: float, rows: float, seed: int = 0) -> Iterator[Tensor]:
    """Scores (choices, seeds, N) of so many tables; `rows`: the standard error over the data beside that of a seed."""
    noise = torch.Generator().manual_seed(seed)
    spread = torch.tensor([noisy] + [1.0] * (choices - 1), dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64)

    for _ in range(count):
        of_seeds = 3 * normal(1, seeds, 1) + spread[:, None, None] * normal(choices, seeds, 1)
        yield of_seeds + rows * math.sqrt(N / seeds) * (normal(choices, 1, N) + normal(choices, seeds, N))


def by_pairs(scores: Tensor) -> list[dict[str, float]]:
    """As before: each difference from the best by Student's t, as if it alone had been asked for."""
    best = scores[scores.mean((1, 2)).argmax()]
    return [paired(best - each) for each in scores]


def wrong(count: int, choices: int, seeds: int, noisy: float, rows: float, margins: Margins = behind_best) -> float:
    """The share of tables in which some choice is behind the best by more than its margin."""
    found = (margins(scores) for scores in tables(count, choices, seeds, noisy, rows))
    return sum(any(each["value"] > each["margin"] for each in behind) for behind in found) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=4000)
    count = parser.parse_args().tables
    torch.set_num_threads(1)
    heads = ["choices", "seeds", "errors of", *(f"noisy x {noisy:g}" for noisy in NOISY), "before, x 1"]
    lines = []
    for choices in CHOICES:
        for seeds in SEEDS:
            for rows in ROWS:
                shares = [wrong(count, choices, seeds, noisy, rows) for noisy in NOISY]
                shares.append(wrong(count, choices, seeds, 1.0, rows, by_pairs))
                kind = "seeds and data" if rows else "seeds"
                lines.append([choices, seeds, kind, *(f"{100 * share:.1f} %" for share in shares)])
    print(table(heads, lines, names=3))


if __name__ == "__main__":
    main()
