"""The cases of a campaign, carried out by a few forked processes, and the table of what came of them."""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge import REFUSED, RIGHT


@dataclass(frozen=True)
class Case:
    """One fault.

    Args:
        row: of the table.
        name: what is done.
        carry_out: a function of an empty folder that says what came of it: see `judge`; of several, by their names.
        planted: it must come out wrong.
    """

    row: str
    name: str
    carry_out: Callable[[Path], Any]
    planted: bool = False


def carry_out(cases: Sequence[Case], folder: Path, processes: int, minutes: float, seed: int) -> list[dict[str, Any]]:
    """What came of the cases: planted ones first, then one of each row after the other, until the time is over."""
    order = _order(cases, seed)
    end = time.monotonic() + 60 * minutes
    workers = [_fork(order[number::processes], folder / f"worker-{number}", end) for number in range(processes)]
    ended = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    found = [json.loads(line) for path in sorted(folder.glob("worker-*/found")) for line in path.open()]
    if any(ended):
        raise RuntimeError(f"processes of the campaign ended with {ended}")
    return found


def _order(cases: Sequence[Case], seed: int) -> list[Case]:
    """Planted ones first; of the others the first of each row, then the second of each, at random within a row."""
    order = random.Random(seed).sample(list(cases), len(cases))
    of_row: Counter[str] = Counter()
    places = {}
    for case in order:
        places[id(case)] = (not case.planted, of_row[case.row])
        of_row[case.row] += not case.planted
    return sorted(order, key=lambda case: places[id(case)])


def _fork(cases: Iterable[Case], folder: Path, end: float) -> int:
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a small disk is unmounted also then
        try:
            with open(folder / "found", "w", buffering=1) as file:
                for number, case in enumerate(cases):
                    for record in _records(case, folder / str(number), end):
                        print(json.dumps(record), file=file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def _records(case: Case, folder: Path, end: float) -> Iterator[dict[str, Any]]:
    """What came of a case; an empty text where no time was left for it."""
    late = not case.planted and time.monotonic() > end
    came = "" if late else _carried_out(case, folder)
    for name, verdict in (came if isinstance(came, Mapping) else {case.name: came}).items():
        record = {"row": case.row, "name": name, "planted": case.planted, "came": verdict}
        if is_bad(record):
            print(line(record), file=sys.stderr, flush=True)
        yield record


def _carried_out(case: Case, folder: Path) -> Any:
    here = folder / "here"
    here.mkdir(parents=True)
    try:
        return case.carry_out(here)
    except Exception:
        return f"the case itself failed: {traceback.format_exc()[-300:]!r}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_bad(record: Mapping[str, Any]) -> bool:
    """Whether a case came out wrong, or a planted fault did not."""
    return bool(record["came"]) and record["planted"] == (record["came"] in (RIGHT, REFUSED))


def line(record: Mapping[str, Any]) -> str:
    """What is bad in it."""
    return f"{record['row']}: {record['name']}: {'planted, not caught: ' * record['planted']}{record['came']}"


def table(found: Iterable[Mapping[str, Any]]) -> tuple[list[list[Any]], bool]:
    """A line for each row, and whether all is as it must be: nothing is wrong, and all that was planted was caught."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        rows.setdefault(each["row"], []).append(each)
    lines, good = [], True
    for row, its in sorted(rows.items()):
        done = [each["came"] for each in its if not each["planted"] and each["came"]]
        planted = [each for each in its if each["planted"]]
        caught = [each for each in planted if each["came"] not in (RIGHT, REFUSED)]
        right, refused = done.count(RIGHT), done.count(REFUSED)
        wrong = len(done) - right - refused
        missed = sum(not each["planted"] and not each["came"] for each in its)
        lines.append([row, len(done), right, refused, wrong, f"{len(caught)} of {len(planted)}", missed or ""])
        good &= not wrong and bool(planted) and len(caught) == len(planted)
    return lines, good


HEADS = ["kind of fault", "tried", "right", "refused in one line", "wrong", "planted fault caught", "no time left for"]
