"""The curves of a training for TensorBoard."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pyrovae import files


@contextmanager
def curves(folder: Path, first: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A function that adds an epoch and its numbers to the curves in `folder`.

    Curves of earlier files end before the epoch `first`. torch's SummaryWriter writes from a thread, which prints a
    traceback if the disk is full; this writer writes immediately, and raises a StorageError.
    """
    with files.storing(folder):
        folder.mkdir(exist_ok=True)
    path = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
    with files.storing(path), open(path, "ab", buffering=0) as file:
        writer = RecordWriter(file)
        _write(writer, file_version="brain.Event:2")
        _write(writer, step=first, session_log=SessionLog(status=SessionLog.START))
        yield lambda epoch, numbers: _add(path, writer, epoch, numbers)


def _add(path: Path, writer: RecordWriter, epoch: int, numbers: Mapping[str, float]) -> None:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
    with files.storing(path):
        _write(writer, step=epoch, summary=Summary(value=values))


def _write(writer: RecordWriter, **fields: Any) -> None:
    writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
