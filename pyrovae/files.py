"""Reads and writes files that are never half-written, and never unpickled."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

# A process holds the lock on this file while it works in its folder.
LOCK = ".lock"
# The names of temporary files. If their process was killed, the next command removes them.
_TEMPORARY = re.compile(r"\.(writable|[0-9a-f]+-.+)")
# The errors of a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class StorageError(OSError):
    """A file cannot be read or written: the disk is full, or something else is in its place."""


class InUseError(ValueError):
    """Another process is working in a folder."""


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise a StorageError that names `path` if the file system fails inside."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: could not be written ({error.strerror or error})") from error


def check_file(path: Path) -> None:
    """Raise a StorageError if there is something other than a file: opening a FIFO would wait for ever."""
    try:
        state = path.stat()
    except OSError:  # missing or unreachable: opening it gives a better message
        return
    if not stat.S_ISREG(state.st_mode):
        raise StorageError(f"{path}: expected a file, found {_kind(state)}; move it away")


def _kind(state: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(state.st_mode), "something else")


def read_text(path: Path) -> str:
    """The text of a file."""
    check_file(path)
    return path.read_text()


def check_name(path: Path) -> None:
    """Raise a ValueError if a name has line breaks or control characters."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in str(path)):
        raise ValueError(f"{str(path)!r}: expected a name without line breaks and other control characters")


def check_folder(path: Path) -> None:
    """Raise a ValueError if there is something other than a folder, or if the name has line breaks."""
    check_name(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a directory, found a file")


def check_no_link(path: Path) -> None:
    """Raise a ValueError if a folder for output is a link, which may lead anywhere."""
    if path.is_symlink():
        raise ValueError(f"{path}: expected a directory, found a link to {os.readlink(path)!r}; remove or replace it")


def make_folder(path: Path, new: bool = False) -> None:
    """Make a folder, unless it exists.

    Raises:
        ValueError: it cannot be made here.
        StorageError: there is no space.
        FileExistsError: it exists, and `new` is True.
    """
    check_name(path) if new else check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        kind = StorageError if error.errno in _FULL else ValueError
        raise kind(f"{path}: expected a directory that can be written to ({error.strerror})") from None


def check_writable(path: Path) -> None:
    """Raise a StorageError if no file can be created in a folder."""
    with storing(path), tempfile.TemporaryFile(dir=path):
        pass


@contextmanager
def claimed(path: Path, new: bool = False) -> Iterator[Path]:
    """Make a folder if necessary, and claim it for this process. If it stays empty, it is removed.

    The claim is a lock on the file .lock in the folder. The system releases it when the process ends, in any way. On a
    file system without locks another process can claim the folder, too.

    Args:
        path: the folder.
        new: whether the folder must not exist yet.

    Raises:
        InUseError: another process has claimed it.
        FileExistsError: it exists, and `new` is True.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    make_folder(path, new)
    try:
        with _locked(path):
            yield path
    finally:
        with suppress(OSError):  # the folder is not empty
            for each in missing:
                each.rmdir()


def in_use(path: Path) -> bool:
    """Whether a process has claimed a folder."""
    try:
        with _locked(path):
            return False
    except InUseError:
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path / LOCK)
    try:
        _lock(lock, path / LOCK)
    except Timeout:
        raise InUseError(f"{path}: expected a folder that no other process works in, found one at work") from None
    except NotImplementedError:
        pass
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        if error.errno not in _NO_LOCKS:
            kind = StorageError if error.errno in _FULL else ValueError
            raise kind(f"{path}: expected a directory that can be written to ({error.strerror})") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            (path / LOCK).unlink()
        lock.release()


def _lock(lock: BaseFileLock, path: Path) -> None:
    """Take a lock on the file that is there now: a former holder may have removed another file meanwhile."""
    while True:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        before = _identity(path)
        lock.acquire(timeout=0)
        if before is not None and before == _identity(path):
            return
        lock.release()


def _identity(path: Path) -> int | None:
    """The identity of a file, None if there is none; a StorageError names anything other than a file."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode):
        raise StorageError(f"{path}: expected a file, found {_kind(state)}; move it away")
    return state.st_ino


def sweep(folder: Path) -> None:
    """Remove temporary files of killed processes from the folder of a run and its figures."""
    for place in (folder, folder / "figures"):
        for each in place.iterdir() if place.is_dir() else ():
            if _TEMPORARY.fullmatch(each.name):
                with storing(each):
                    shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def _beside(path: Path, kind: str = "") -> Path:
    """A random name beside `path` for the file that will replace it: nobody can put a link there in advance."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}-{kind}{path.name}")


def _create(path: Path) -> None:
    """Create an empty file; fail if it exists."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it after success; a link at `path` is itself replaced."""
    check_file(path)
    temporary = _beside(path)
    try:
        with storing(path):
            _create(temporary)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, with everything in it."""
    temporary, old = (_beside(path, f"{kind}-") for kind in ("new", "old"))
    with storing(path):
        temporary.mkdir()
    try:
        with storing(path):
            yield temporary
            if path.exists():
                path.rename(old)
            temporary.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write the whole content or nothing, even after a power cut."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinite values become null, because JSON has neither."""
    write_bytes(path, (json.dumps(_finite(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; returns {} for a missing or damaged file, which a new one replaces."""
    with suppress(FileNotFoundError, ValueError, RecursionError):
        found = json.loads(read_text(path))
        return found if isinstance(found, dict) else {}
    return {}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_tensors(path: Path, tensors: dict[str, Tensor], about: Any) -> None:
    """Write tensors as safetensors, together with JSON values `about` them and a digest of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, sort_keys=True)
    write_bytes(path, save(tensors, {"about": text, "sha256": digest(tensors, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `write_tensors` wrote; a ValueError names a file that is missing, truncated or altered."""
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors file, found a damaged one ({error})") from None
    if metadata.get("sha256") != digest(tensors, metadata.get("about", "")):
        raise ValueError(f"{path}: its content does not agree with its digest: the file is damaged")
    try:
        return tensors, json.loads(metadata.get("about", ""))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: expected JSON beside its tensors, found other text") from None


def apart(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Split nested tensors and numbers into a JSON value and tensors, which are added to `tensors` as `name.*`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {str(key): apart(f"{name}.{key}", item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [apart(f"{name}.{number}", item, tensors) for number, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name}: expected tensors and numbers, which can be kept, found {type(value).__name__}")


def together(said: Any, tensors: dict[str, Tensor]) -> Any:
    """Reverse `apart`; tuples have become lists, and keys text."""
    if isinstance(said, list):
        return [together(item, tensors) for item in said]
    if not isinstance(said, dict):
        return said
    if said.keys() == {"tensor"}:
        return tensors[said["tensor"]]
    return {key: together(item, tensors) for key, item in said.items()}


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """The digest of tensors, with their names, types and shapes, and of a text."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def sha256(path: Path) -> str:
    """The digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_line(path: Path, value: Any) -> None:
    """Append a line of JSON, with null as in `write_json`; never through a link."""
    if path.is_symlink():
        raise ValueError(f"{path}: expected a file, found a link to {os.readlink(path)!r}; remove or replace it")
    check_file(path)
    with storing(path), open(path, "a", opener=_no_link) as file:
        file.write(json.dumps(_finite(value), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _no_link(path: str, flags: int) -> int:
    """An opener for `open` that fails for a link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextmanager
def overwriting(path: Path, mode: str = "w") -> Iterator[IO[str]]:
    """A text file for writing ("w") or appending ("a"); a link is replaced by a file."""
    if path.is_symlink():
        path.unlink()
    with open(path, mode, opener=_no_link) as file:
        yield file


def remove(path: Path) -> None:
    """Remove a folder with everything in it, or a link without its target."""
    path.unlink() if path.is_symlink() else shutil.rmtree(path)


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines, up to a line that is truncated or invalid."""
    check_file(path)
    values = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        value = None
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
        if not isinstance(value, dict):
            break
        values.append(value)
    return values


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a file of JSON lines."""
    write_bytes(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def read_about(path: Path) -> dict[str, Any]:
    """Read the JSON values of `write_tensors` without the tensors; {} for a damaged file."""
    check_file(path)
    with suppress(SafetensorError, OSError, KeyError, ValueError), safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["about"])
        return said if isinstance(said, dict) else {}
    return {}
