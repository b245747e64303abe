"""A process for each case, forked from one that has imported everything: a case costs no imports."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from judge import Outcome

from pyrovae.__main__ import main
from pyrovae.comparison.child import end_with_parent

TIMEOUT = 150.0  # seconds after which a case hangs
GRACE = 15.0  # seconds in which what a process has started ends after it
Function = Callable[[], Any]


def command(*words: str) -> Function:
    """The command line in a forked process: its exit status."""
    return lambda: sys.exit(main(list(words)))


def asked(function: Function) -> Function:
    """A call of the Python API in a forked process: a ValueError is a refusal, in as many lines as it has."""

    def called() -> Any:
        try:
            return function()
        except (ValueError, OSError) as error:
            print(f"pyrovae: {error}", file=sys.stderr)
            sys.exit(2)

    return called


@dataclass(frozen=True)
class Process:
    """A forked process, and the files that it answers by."""

    pid: int
    paths: Mapping[str, Path]


def fork(function: Function, here: Path, timeout: float = TIMEOUT, kill: tuple[int, float] | None = None) -> Outcome:
    """Call a function in a process of its own, in the folder `here`, and see how it ends: see `begin` and `end`."""
    return end(begin(function, here), timeout, kill)


def begin(function: Function, here: Path, name: str = "") -> Process:
    """Call a function in a process of its own.

    Args:
        function: what it returns is the `value`, by JSON; SystemExit sets the status.
        here: its working directory. Its outputs are kept beside it.
        name: of the process, where several work in one folder.
    """
    paths = {kind: here.with_name(f"{here.name}{name}.{kind}") for kind in ("stdout", "stderr", "value")}
    for path in paths.values():
        path.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(function, here, paths)
    return Process(pid, paths)


def end(process: Process, timeout: float = TIMEOUT, kill: tuple[int, float] | None = None) -> Outcome:
    """How a process ends.

    Args:
        process: the process.
        timeout: seconds after which it hangs.
        kill: a signal, and how many seconds from now it is sent.
    """
    status = _wait(process.pid, timeout, kill)
    left = _ended(process.pid, 0 if status is None else GRACE)
    value = json.loads(process.paths["value"].read_text()) if process.paths["value"].exists() else None
    return Outcome(status, process.paths["stderr"].read_text(errors="replace"), value, tuple(left))


def _child(function: Function, here: Path, paths: Mapping[str, Path]) -> None:
    """What the forked process does; it never returns."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.chdir(here)
        _python_warnings()
        value = function()
        paths["value"].write_text(json.dumps(value))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _python_warnings() -> None:
    """What a new Python warns of, whatever was asked for in the process that forks."""
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)


def _wait(pid: int, timeout: float, kill: tuple[int, float] | None) -> int | None:
    """The exit status of a child; None where it had to be ended."""
    start = time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - start
        if kill and passed >= kill[1]:
            os.kill(pid, kill[0])
            kill = None
        if passed > timeout:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def _ended(session: int, grace: float) -> list[str]:
    """The processes of a session that are still there some time after its first one ended; they are ended, too."""
    deadline = time.monotonic() + grace
    while (left := _session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())


def _session(session: int) -> dict[int, str]:
    """The processes of a session and their names, zombies apart; none where there is no /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            state, _, _, of = rest.split()[:4]
            if int(of) == session and state != "Z":
                found[int(path.parent.name)] = name
    return found


def preload(here: Path, *commands: Sequence[str]) -> None:
    """Import here what these commands import when they run: a forked process finds all of it."""

    def modules() -> list[str]:
        before = set(sys.modules)
        for words in commands:
            main(list(words))
        return [name for name in sys.modules if name not in before]

    for name in fork(modules, here, 600).value:
        with suppress(Exception):
            importlib.import_module(name)
    tasks = Path("/proc/self/task")
    if tasks.exists() and len(list(tasks.iterdir())) > 1:
        raise RuntimeError("expected one thread before the first fork, found more")


def fork_children() -> None:
    """Let `pyrovae compare` fork its children, in place of starting Python anew.

    It asks for them in threads, and a process with threads is not forked: a process that is forked now makes them.
    """
    genuine, (ask, answer) = subprocess.run, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ask.close()
        _serve(answer)
    answer.close()

    def run(called: Sequence[str], **options: Any) -> Any:
        if list(called[1:3]) != ["-m", "pyrovae.comparison.child"]:
            return genuine(called, **options)
        reading, writing = os.pipe()
        given = [options["stdin"], options["stdout"].fileno(), writing]
        socket.send_fds(ask, [json.dumps([os.getcwd(), *called[3:]]).encode()], given)
        os.close(writing)
        with open(reading) as line:
            status = line.read()
        return subprocess.CompletedProcess(called, int(status or -signal.SIGKILL))

    subprocess.run = run


def _serve(answer: socket.socket) -> None:
    """Fork a child for each request, until the process that asks is gone; it never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, given, _, _ = socket.recv_fds(answer, 2**16, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer.close()
            here, *words = json.loads(message)
            os.chdir(here)
            _command(words, *given)
        for descriptor in given:
            os.close(descriptor)


def _command(words: Sequence[str], line: int, log: int, result: int) -> None:
    """What `python -m pyrovae.comparison.child` does; then it writes its status, and never returns."""
    status = 1
    try:
        os.dup2(line, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for descriptor in (line, log):
            os.close(descriptor)
        Thread(target=end_with_parent, daemon=True).start()
        status = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(result, str(status).encode())
        os._exit(status)
