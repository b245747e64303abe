"""The campaign of faults (`nox -s faults`) has a judge of its own: what is wrong must not pass for right."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "runs" / "checks" / "faults"


@pytest.fixture
def campaign(monkeypatch):
    """The campaign's modules, by their short names."""
    monkeypatch.syspath_prepend(str(FAULTS))
    names = [path.stem for path in FAULTS.glob("*.py")]
    yield __import__
    for name in names:
        sys.modules.pop(name, None)


def failing():
    raise KeyError("epoch")


def says(*lines, status=2, value=None):
    def say():
        for line in lines:
            print(line, file=sys.stderr)
        sys.exit(status) if status else None
        return value

    return say


# What a process does; what it is called where 3.5 is right and a refusal names --beta.
ENDS = {
    "right": (says(status=0, value=3.5), "right"),
    "refused": (says("pyrovae: --beta: expected 1, found 2"), "refused"),
    "a changed number": (says(status=0, value=3.4999), "another number: 3.4999 in place of 3.5"),
    "a traceback": (failing, "a traceback: KeyError: 'epoch'"),
    "a hang": (lambda: time.sleep(60), "a hang"),
    "a crash": (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended by signal 9"),
    "two lines": (says("pyrovae: --beta: expected 1", "or 2"), "2 lines on stderr"),
    "no line": (says(), "0 lines on stderr"),
    "no name": (says("pyrovae: it failed"), "a line that names none of --beta"),
    "another status": (says("pyrovae: --beta: expected 1", status=3), "status 3"),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_judge_tells_right_from_wrong(name, campaign, tmp_path):
    function, verdict = ENDS[name]
    here = tmp_path / "here"
    here.mkdir()
    outcome = campaign("forking").fork(function, here, timeout=2 if name == "a hang" else 60)
    assert campaign("judge").judge(outcome, 3.5, ["--beta"]).startswith(verdict)


def test_where_nothing_may_be_refused_a_line_is_wrong(campaign):
    judge = campaign("judge")
    refused = judge.Outcome(2, "pyrovae: --beta: expected 1, found 2\n")
    assert judge.judge(refused, 3.5).startswith("refused, status 2: pyrovae: --beta")
    warned = judge.Outcome(0, "a.py:3: UserWarning: runs/run: other rows\n  warnings.warn(\n", 3.4)
    assert judge.judge(warned, 3.4, ["runs/run"]) == "right"
    assert judge.judge(warned, 3.5, ["runs/run"]) == "refused"
    assert judge.judge(warned, 3.5, ["elsewhere"]).startswith("another number: 3.4")
    assert judge.lines(warned.errors) == []


def test_a_process_that_is_left_is_seen_and_ended(campaign, tmp_path, monkeypatch):
    forking = campaign("forking")
    monkeypatch.setattr(forking, "GRACE", 0.3)
    here = tmp_path / "here"
    here.mkdir()
    outcome = forking.fork(lambda: os.fork() or time.sleep(60), here)
    assert outcome.status == 0
    assert len(outcome.left) == 1
    assert campaign("judge").disaster(outcome).startswith("left processes")


def test_the_table_is_bad_where_anything_is(campaign):
    table = campaign("campaign").table
    case = {"row": "kills", "name": "a", "planted": False, "came": "right"}
    planted = {"row": "kills", "name": "b", "planted": True, "came": "a hang"}
    (line,), good = table([case, planted])
    assert (line, good) == (["kills", 1, 1, 0, 0, "1 of 1", ""], True)
    for bad in ([case | {"came": "a hang"}, planted], [case, planted | {"came": "right"}], [case]):
        assert not table(bad)[1]
    late = [case | {"came": ""}, case, planted]
    assert table(late)[0][0] == ["kills", 1, 1, 0, 0, "1 of 1", 1]
