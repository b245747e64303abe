"""Published rows, trained again: python runs/reference/reference.py NAME --budget cpu|full; without NAME, the table.

Each is an ordinary run, resumable, in runs/reference/; results.json and README.md beside it hold the table.
"""

import argparse
import json
import math
import tomllib
from pathlib import Path

from pyrovae import checks, files
from pyrovae.comparison import grid
from pyrovae.runs import effort, recipe
from pyrovae.runs.report import spread, table
from pyrovae.runs.trust import trusting

HERE = Path(__file__).parent
ROWS = tomllib.loads((HERE / "rows.toml").read_text())
ALL = ROWS.pop("all")
TRUSTED = ["pytorch_optimizer"]  # the one package beside torch whose optimiser rows.toml names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--budget", choices=("cpu", "full"), default="cpu")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: half of torch's own choice")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(ROWS):
        parser.error(f"expected names of {', '.join(ROWS)}, found {', '.join(sorted(unknown))}")
    made = [cell for name in asked.names for cell in cells(name, asked.budget, asked.seeds, asked.threads)]
    try:
        checks.integer("jobs", asked.jobs)
        grid.check_runs(HERE, made)
    except ValueError as error:
        parser.error(str(error))
    with trusting(TRUSTED):
        failed = grid.carry_out(HERE, made, "test", asked.jobs)
    note({f"{name} {asked.budget}": finished(name, asked.budget) for name in asked.names})
    files.write_bytes(HERE / "README.md", told().encode())
    print(told())
    if failed:
        parser.exit(1, f"failed: look at {', '.join(f'{HERE / name}.log' for name in failed)}\n")


def note(found: dict[str, list[object]]) -> None:
    """Rows that are finished take their places in results.json, where those of other machines stand."""
    files.write_json(HERE / "results.json", known() | {name: row for name, row in found.items() if row})


def known() -> dict[str, list[object]]:
    path = HERE / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def cells(name: str, budget: str, seeds: int, threads: int = 0) -> list[grid.Cell]:
    options = {"threads": threads}
    for part in (ALL, ROWS[name]):
        options |= part["both"] | part[budget]
    start = recipe.from_options(options)
    return [grid.Cell(f"{name}-{budget}-{s}", (name,), recipe.from_options({"seed": s}, start)) for s in range(seeds)]


HEADS = ["row", "budget", "-log p(x)", "published", "-ELBO", "active", "K", "epochs", "seeds", "minutes", "threads"]


def told() -> str:
    """The page: the table, and what each row is. A published result that was not reached stays in it."""
    sources = [f"- `{name}`: {row['source']}" for name, row in ROWS.items()]
    return "\n".join(
        [
            "# Published rows, trained again",
            "",
            "`nox -s reference -- NAME` trains a published row of dynamically binarised MNIST again. The default",
            "budget, `cpu`, has fewer epochs; `--budget full` follows the paper's schedule and needs a GPU. The",
            "options are in rows.toml. Results of other models beside published ones: [models](models.md).",
            "",
            "-log p(x) and -ELBO are nats per image on all 10 000 test images; -log p(x) uses K importance samples.",
            '± is the standard deviation over seeds, or with one seed the standard error over the images. "active"',
            "counts active latents. Minutes are the training time on the given number of threads; the machine also",
            "had other work.",
            "",
            table(HEADS, rows()),
            "",
            "- Burda's rows are trained with SOAP from the package pytorch-optimizer, an optimiser that any run can",
            '  name (`--optimizer "pytorch_optimizer:SOAP(weight_decay=0.0)"`). With Adam, `burda-vae` was at',
            "  87.27 ± 0.05 after 600 epochs.",
            "- `standard-normal` and `vamp-prior` have the same number of epochs. The VampPrior leads by 1.95 nats,",
            "  with three seeds each; the published lead is 2.1.",
            "- `burda-iwae-50` was trained for few epochs.",
            '- No row of budget `cpu` uses `begin = "mean"`. Budget `full` does; an earlier version ignored it.',
            "",
            "What each row is:",
            "",
            *sources,
            "",
        ]
    )


def rows() -> list[list[object]]:
    """Those that are known, in the order of rows.toml."""
    there = known()
    return [row for name in ROWS for budget in ("cpu", "full") if (row := there.get(f"{name} {budget}"))]


def finished(name: str, budget: str) -> list[object]:
    """A row of the table, of the seeds that are there; nothing where none is."""
    paths = [path for path in sorted(HERE.glob(f"{name}-{budget}-*")) if (path / "evaluation.json").exists()]
    if not paths:
        return []
    found = [json.loads((path / "evaluation.json").read_text()) for path in paths]
    made, took = recipe.read(paths[0] / "run.toml"), [effort(path) for path in paths]
    scores = [
        spread([-each[score]["value"] for each in found])
        if len(found) > 1
        else f"{-found[0][score]['value']:.2f} ± {found[0][score]['standard_error']:.2f}"
        for score in ("log_likelihood", "elbo")
    ]
    paper = ROWS[name]["paper"]
    published = "" if math.isnan(paper) else f"{paper:.2f}"
    active, latents = (sum(found[0][count].values()) for count in ("active_units", "latents"))
    minutes = f"{sum(each['seconds'] for each in took) / len(took) / 60:.1f}"
    counts = [f"{active} of {latents}", found[0]["particles"], made.epochs, len(paths), minutes, took[0]["threads"]]
    return [f"`{name}`", budget, scores[0], published, scores[1], *counts]


if __name__ == "__main__":
    main()
