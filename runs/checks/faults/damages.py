"""Files that are damaged: every kind of file in a run, of data and of a comparison, in every way."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import made
import numpy as np
import planting
from campaign import Case
from forking import TIMEOUT, command, fork
from judge import judge

from pyrovae.runs.recipe import Recipe

FLIPS = 1  # bits of each file, one at a time; another seed flips others
FILES = (
    *("run.toml", "environment.json", "metrics.jsonl", "evaluation.json", "scores.safetensors"),
    *("best.safetensors", "last.safetensors", "previous.safetensors", "figures/loss.png", "figures/samples.png"),
)
OPTIONS = [option.name for option in fields(Recipe)]
Damage = Callable[[Path, Path, random.Random], Any]


def _truncate(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def _zero(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path, other: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _swap(path: Path, other: Path, chance: random.Random) -> None:
    shutil.copy(other, path)


def _delete(path: Path, other: Path, chance: random.Random) -> None:
    path.unlink()


DAMAGES: dict[str, Damage] = {
    "cut in half": _truncate,
    "emptied": _empty,
    "filled with zeros": _zero,
    "a bit flipped": _flip,
    "swapped with another run's": _swap,
    "deleted": _delete,
}


@dataclass(frozen=True)
class Reader:
    """A command that reads what is damaged: from which template and files it starts, and what it makes."""

    name: str
    function: Callable[[], Any]
    start: str
    files: tuple[str, ...]
    answer: Callable[[Path], Any]


def _runs(here: Path) -> dict[str, Any]:
    """All of a run; where its records were deleted, they begin later, and so do its curves."""
    found = made.numbers(here / "runs/run")
    if len(found.get("records", [])) < made.EPOCHS:
        found["records"] = [record["epoch"] for record in found["records"]]
        found["figures"].pop("loss.png", None)
    return found


def _evaluated(name: str) -> Callable[[Path], Any]:
    return lambda here: {**made.evaluated(here / name), "scores": made.tensors(here / name / "scores.safetensors")}


RUN = ("x.npy", "runs/run")
READERS = {
    "load": Reader("load", made.loaded(), "whole", RUN, lambda here: None),
    "resume": Reader("resume", command(*made.RESUME), "cut", RUN, _runs),
    "evaluate": Reader("evaluate", command(*made.EVALUATE), "whole", RUN, _evaluated("runs/run")),
    "plot": Reader("plot", command(*made.PLOT), "whole", RUN, lambda here: made.figures(here / "runs/run")),
    "compare": Reader(
        "compare", made.comparing("compare", "cmp"), "whole", ("x.npy", "cmp"), lambda here: made.compared(here / "cmp")
    ),
}
ARCHIVE = Reader("evaluate", command("evaluate", "runs/archive"), "whole", ("x.npz", "runs/archive"),
                 _evaluated("runs/archive"))  # fmt: skip
PICTURES = Reader("evaluate", command("evaluate", "runs/pictures"), "whole", ("pictures", "runs/pictures"),
                  _evaluated("runs/pictures"))  # fmt: skip


def _targets(template: Path) -> Iterator[tuple[Reader, str, Path]]:
    """Who reads, what is damaged, and what that is swapped with."""
    other = _other_data(template)
    for name, reader in READERS.items():
        folder, others = ("cmp/1+seed-0", "whole/cmp/2+seed-0") if name == "compare" else ("runs/run", "other/runs/run")
        for file in FILES:
            yield reader, f"{folder}/{file}", template / others / file
        yield reader, "x.npy", other / "x.npy"
    for file in ("compare.toml", "compare.csv", "report.html", "1+seed-0.log"):
        yield READERS["compare"], f"cmp/{file}", template / "whole/runs/run/run.toml"
    yield ARCHIVE, "x.npz", other / "x.npz"
    yield PICTURES, "pictures/03.png", template / "whole/pictures/04.png"


def _other_data(template: Path) -> Path:
    """The same rows in another order."""
    folder = template / "other-data"
    folder.mkdir()
    x = np.load(template / "whole/x.npy")[::-1]
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x, y=np.load(template / "whole/x.npz")["y"])
    return folder


def cases(template: Path, seed: int) -> Iterator[Case]:
    expected = {id(reader): _expected(template, reader) for reader in (*READERS.values(), ARCHIVE, PICTURES)}
    for reader, file, other in _targets(template):
        for kind, damage in DAMAGES.items():
            for count in range(FLIPS if damage is _flip else 1):
                chance = random.Random(f"{seed} {reader.name} {file} {count}")
                name = f"{file}{f', bit {count}' * (damage is _flip)}, then {reader.name}"
                made_so = _damaged(reader, template, file, lambda p, d=damage, o=other, c=chance: d(p, o, c),
                                   expected[id(reader)])  # fmt: skip
                yield Case(f"damage: {kind}", name, made_so)
    yield from _planted(template, expected[id(READERS["load"])], expected[id(READERS["resume"])])


def _expected(template: Path, reader: Reader) -> Any:
    here = template / f"read-{reader.name}-{reader.files[-1].replace('/', '-')}"
    here.mkdir()
    made.bring(template / reader.start, here, *reader.files)
    outcome = fork(reader.function, here)
    assert outcome.status == 0, outcome.errors
    return outcome.value if reader.name == "load" else reader.answer(here)


def _damaged(reader: Reader, template: Path, file: str, damage: Callable[[Path], Any], expected: Any,
             timeout: float = TIMEOUT) -> Callable[[Path], str]:  # fmt: skip
    def carry_out(here: Path) -> str:
        made.bring(template / reader.start, here, *reader.files)
        damage(here / file)
        deleted = not (here / file).exists()
        outcome = fork(reader.function, here, timeout)
        same = expected
        if outcome.status == 0 and reader.name != "load":
            outcome = made.with_value(outcome, reader.answer(here))
            if file.endswith("metrics.jsonl") and reader.name == "resume" and deleted:
                same = _without_records(expected, outcome.value)
            if reader.name == "compare":
                same = _where_there(expected, outcome.value)
        if left := [name for name in made.hidden(here) if not name.endswith(".lock")]:
            return f"temporary files are left: {left}"
        return judge(outcome, same, ["runs/", "cmp", Path(file).name, Path(file).stem, *OPTIONS])

    return carry_out


def _without_records(expected: Any, value: Any) -> Any:
    """What is expected of a run whose metrics.jsonl was deleted: its records begin at the epoch after."""
    if len(value.get("records", [])) == made.EPOCHS:
        return expected
    figures = {name: digest for name, digest in expected["figures"].items() if name != "loss.png"}
    return expected | {"records": [made.EPOCHS], "figures": figures}


def _where_there(expected: Any, value: Any) -> Any:
    """What is expected of a table that leaves out what is not known any more: steps, or by how much a choice leads."""
    return [
        {name: number and whole.get(name) for name, number in row.items()}
        for row, whole in zip(value, expected, strict=False)
    ]


class Anything:
    """A planted fault: a digest that is like any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def _planted(template: Path, loaded: Any, resumed: Any) -> Iterator[Case]:
    """Readers that believe what they read, one that waits, and one that does not know what to say."""
    load, resume = READERS["load"], READERS["resume"]

    def case(
        kind: str, name: str, reader: Reader, file: str, damage: Damage, timeout: float = TIMEOUT, **faults: Any
    ) -> Case:
        function = planting.patched(reader.function, **faults)
        bad = Reader(reader.name, function, reader.start, reader.files, reader.answer)
        other = template / "other" / file
        expected = loaded if reader is load else resumed
        done = _damaged(bad, template, file, lambda path: damage(path, other, random.Random(0)), expected, timeout)
        return Case(f"damage: {kind}", name, done, True)

    def last_bit(path: Path, other: Path, chance: random.Random) -> None:
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)

    best, metrics = "runs/run/best.safetensors", "runs/run/metrics.jsonl"
    yield case("cut in half", "lost records are believed", resume, metrics, _truncate, check_metrics=planting.nothing)
    yield case("emptied", "lost records are believed", resume, metrics, _empty, check_metrics=planting.nothing)
    yield case("filled with zeros", "a reader waits", load, best, _zero, 5.0, read_tensors=lambda path: time.sleep(600))
    yield case("a bit flipped", "the digest is ignored", load, best, last_bit, digest=lambda *args: Anything())
    yield case("swapped with another run's", "no tie", load, best, _swap, check_tie=planting.nothing)
    yield case("deleted", "a reader has a traceback", load, best, _delete, read_tensors=lambda path: {}[path.name])
