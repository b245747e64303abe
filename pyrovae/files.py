"""Files that are never half-written, and never unpickled."""

import hashlib
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

if sys.platform != "win32":
    import fcntl


def check_folder(path: Path) -> None:
    """Raise a ValueError where something else than a folder is in its place."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a directory, found a file")


def check_no_link(path: Path) -> None:
    """Raise a ValueError where a link is in the place of a folder that is written to: it may lead anywhere."""
    if path.is_symlink():
        raise ValueError(f"{path}: expected a directory, found a link to {os.readlink(path)!r}; remove or replace it")


def make_folder(path: Path) -> None:
    """Make a folder, if it is not there."""
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: expected a directory that can be written to ({error.strerror})") from None


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """A folder, made where there is none, that no other process can claim meanwhile; if it stays empty, it goes again.

    On Windows, and on a file system without locks, another can.
    """
    new = [each for each in (path, *path.parents) if not each.exists()]
    make_folder(path)
    try:
        with _locked(path):
            yield
    finally:
        with suppress(OSError):  # it is not empty
            for each in new:
                each.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process, however that ends
        except BlockingIOError:
            raise ValueError(f"{path}: expected a folder that no other process works in, found one at work") from None
        except OSError:  # the file system has no locks
            pass
        yield
    finally:
        os.close(handle)


def _beside(path: Path, kind: str = "") -> Path:
    """A name beside `path` for what will take its place: no one can have put a link there, since it is drawn."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}-{kind}{path.name}")


def _create(path: Path) -> None:
    """An empty file that was not there before."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when all went well; a link there is itself replaced."""
    temporary = _beside(path)
    try:
        _create(temporary)
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same of a folder, with all that is in it."""
    temporary, old = (_beside(path, f"{kind}-") for kind in ("new", "old"))
    temporary.mkdir()
    try:
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
    """The whole content or nothing, also after a power cut."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN and what is infinite become null, since JSON has neither."""
    write_bytes(path, (json.dumps(_finite(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What a file in JSON says; nothing where there is none, or a damaged one, which gives way to a new one."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_tensors(path: Path, tensors: dict[str, Tensor], about: Any) -> None:
    """Tensors as safetensors, with what JSON can say about them and a digest of both inside."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, sort_keys=True)
    write_bytes(path, save(tensors, {"about": text, "sha256": digest(tensors, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` wrote; ValueError names a file that is missing, cut short or altered."""
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
    """What JSON can say of tensors and numbers within lists and dicts; the tensors join `tensors`, as `name.*`."""
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
    """What `apart` took apart; tuples have become lists, and keys text."""
    if isinstance(said, list):
        return [together(item, tensors) for item in said]
    if not isinstance(said, dict):
        return said
    if said.keys() == {"tensor"}:
        return tensors[said["tensor"]]
    return {key: together(item, tensors) for key, item in said.items()}


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """Of tensors, with their names, types and shapes, and of a text."""
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
    """One more line of JSON, with null as in `write_json`; never through a link."""
    if path.is_symlink():
        raise ValueError(f"{path}: expected a file, found a link to {os.readlink(path)!r}; remove or replace it")
    with open(path, "a", opener=_no_link) as file:
        file.write(json.dumps(_finite(value), allow_nan=False) + "\n")


def _no_link(path: str, flags: int) -> int:
    """What `open` opens a file by, where a link is an error."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextmanager
def overwriting(path: Path, mode: str = "w") -> Iterator[IO[str]]:
    """A file for text ("w"), or the end of one ("a"); where it is a link, that gives way to a file."""
    if path.is_symlink():
        path.unlink()
    with open(path, mode, opener=_no_link) as file:
        yield file


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or a link, but not what that leads to."""
    path.unlink() if path.is_symlink() else shutil.rmtree(path)


def read_lines(path: Path) -> list[Any]:
    """The lines of JSON, up to one that was cut short, or is none of ours."""
    values = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        value = None
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
        if not isinstance(value, dict):
            break
        values.append(value)
    return values


def keep_lines(path: Path, keep: int) -> None:
    """Cut a file of JSON lines back to its first ones."""
    kept = read_lines(path)[:keep]
    write_bytes(path, "".join(json.dumps(value) + "\n" for value in kept).encode())
