"""Outputs appear whole or not at all: written under a temporary name, then put into their place."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from tfreader.errors import CorruptCheckpointError, OutputError, TFReaderError
from tfreader.paths import AnyPath, as_path, impossible_name, place
from tfreader.system import replace, sync

from .places import FILE_SUFFIXES, overrules, record_of
from .records.manifest import load
from .records.recorded import Recorded

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from tfreader.remote import RemotePath

_LOCK = ".tfreader.lock"  # of the folder that it lies in, while its files are moved
_OLD = ".old"  # where what is replaced waits until all is done
ATTEMPTS = 100  # to make a temporary folder while others tidy up
# Of files with weights that other programs write; a folder of such a name is no good guess. But
# .h5: batches of tf_model.h5 name folders so.
OTHER_SUFFIXES = (
    *(".ckpt", ".gguf", ".gz", ".hdf5", ".index", ".json", ".keras", ".meta", ".msgpack"),
    *(".npy", ".npz", ".onnx", ".ot", ".pb", ".pickle", ".pkl", ".pt2", ".ptl", ".safetensor"),
    *(".tar", ".tf", ".tflite", ".tgz", ".th", ".torchscript", ".zip"),
)


def names_folder(output: str | PathLike[str]) -> bool:
    """Whether an output is to be a folder, were its name that of a file."""
    return os.fspath(output).endswith("/")


def output_path(output: str | PathLike[str]) -> AnyPath:
    """The path of an output. Raises OutputError where there can be none."""
    if not os.fspath(output):
        raise OutputError("the output is named by no letter; . is the current folder")
    path = as_path(output)
    if not isinstance(path, Path) and path.is_web:
        raise OutputError(f"{output}: cannot be written to; name a folder, or a bucket as s3://…")
    if isinstance(path, Path) and (part := impossible_name(path)):
        raise OutputError(f"{output}: Windows has no file or folder named {part!r}; name another")
    known = FILE_SUFFIXES
    is_meant_as_file = path.suffix.lower() in (*OTHER_SUFFIXES, *known) and path.suffix not in known
    if is_meant_as_file and not names_folder(output):
        raise OutputError(
            f"{output}: no file ending in {path.suffix} can be written; name one ending in "
            f"{', '.join(known)}, or a folder (by a / at its end, where it is to have that name)"
        )
    return path


def _resolved(path: AnyPath) -> AnyPath:
    if isinstance(path, Path):
        return Path(os.path.realpath(path))
    return as_path(str(path).rstrip("/"))


def _places(paths: Iterable[AnyPath]) -> set[str]:
    """What is the same for the same files, also where case tells no names apart."""
    return {place(str(_resolved(path))) for path in paths}


def check_output(output: AnyPath, is_folder: bool, checkpoint: str) -> None:
    """Raise OutputError where that output can never be written, or would harm the checkpoint."""
    try:
        source = _resolved(as_path(checkpoint))
        folders = [source.parent] if is_folder else []
        if source.parent.name == "variables":  # of a SavedModel
            folders += [folder.parent for folder in folders]
        if _places([output]) & _places([source, *folders]):
            raise OutputError(
                f"{output}: is the checkpoint itself, or its folder; name another output"
            )
        is_file, is_dir = output.is_file(), output.is_dir()
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        if isinstance(error, TFReaderError):
            raise
        raise OutputError(f"{output}: cannot be written ({error})") from None
    if is_folder and is_file:
        raise OutputError(f"{output}: is a file; name a folder, or a file ending in .safetensors")
    if not is_folder and is_dir:
        raise OutputError(f"{output}: is a folder; name a file, or a folder without that ending")


def check_place(output: AnyPath, is_folder: bool, names: Collection[str]) -> None:
    """Raise OutputError where these files cannot be written, or others would be loaded for them."""
    home = output if is_folder else output.parent
    try:
        if not isinstance(home, Path):
            _survey(output, is_folder, names)
        elif home.is_dir():
            with _locked(home / _LOCK):
                _survey(output, is_folder, names)
    except OSError as error:
        if isinstance(error, TFReaderError):
            raise
        raise OutputError(f"{output}: cannot be written ({error.strerror or error})") from None


def check_inputs(files: Iterable[AnyPath], read: Iterable[AnyPath]) -> None:
    """Raise OutputError where one of the files to write is one of those that were read."""
    inputs = _places(read)
    for file in files:
        if _places([file]) & inputs:
            raise OutputError(
                f"{file}: was read for this conversion, and would be overwritten; name another "
                "output"
            )


@contextmanager
def staged(output: AnyPath, is_folder: bool, durable: bool) -> Iterator[Path]:
    """A temporary folder to write into, whose files take their place at exit.

    For a file output it must hold a file of the output's name, and may hold its record. A `durable`
    one is on disk before its record is, which a later run trusts. On any
    error what was written is removed, and so are parent folders that were made for it and are
    empty. Raises OutputError when the output cannot be written.
    """
    try:
        if isinstance(output, Path):
            with _stage_beside(output, is_folder) as stage:
                yield stage
                _publish(stage, output, is_folder, durable)
        else:
            with tempfile.TemporaryDirectory(prefix="tfreader.") as folder:
                yield Path(folder)
                _upload(Path(folder), output, is_folder)
    except TFReaderError:
        raise
    except OSError as error:
        advice = ""
        if error.errno == errno.ENOSPC and not isinstance(output, Path):
            advice = f"; set TMPDIR ({tempfile.gettempdir()}) to a folder on a larger disk"
        reason = error.strerror or error
        raise OutputError(f"{output}: cannot be written ({reason}){advice}") from error


@contextmanager
def _stage_beside(output: Path, is_folder: bool) -> Iterator[Path]:
    """A temporary folder on the output's file system; those of killed conversions go."""
    home = output if is_folder and output.is_dir() else output.parent
    made = [path for path in (home, *home.parents) if not path.exists()]
    stage = home / f".{output.name}.{secrets.token_hex(4)}.tmp"
    try:
        # Not inside of the folder: Windows moves none in which a file is open.
        with _locked(stage.with_suffix(".lock")):
            try:
                stage.mkdir()
                tidy(output)
                yield stage
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        made = []
    finally:
        with suppress(OSError):  # another conversion may be using them by now
            for folder in made:
                folder.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is there as long; it ends with this process, however that ends.

    Where the file system has no locks, or may only be read, nothing is held.
    """
    from filelock import FileLock

    lock = FileLock(path)
    for attempt in count(1):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:  # other conversions tidy up the folders that they made
            if attempt < ATTEMPTS:
                continue
            raise
        except OSError:
            pass
        break
    try:
        yield
    finally:
        _unlock(lock)


def _unlock(lock: BaseFileLock) -> None:
    """Let go of a lock, without its file: who waits for one that is removed makes another."""
    if lock.is_locked:
        with suppress(OSError):  # Windows removes no open file; there `release` does
            os.unlink(lock.lock_file)
        lock.release()


def tidy(output: AnyPath) -> None:
    """Remove what killed conversions to this place left."""
    if isinstance(output, Path):
        for folder in {output, output.parent}:
            _sweep(folder, output.name)


def _sweep(home: Path, name: str) -> None:
    """Remove the temporary folders that no living conversion holds, and their locks."""
    stage = re.compile(rf"(\.{re.escape(name)}\.[0-9a-f]{{8}})\.(tmp|lock)")
    found: set[str] = set()
    with suppress(OSError):  # no folder, or closed to reading
        found = {match[1] for match in map(stage.fullmatch, os.listdir(home)) if match}
    if not found:
        return
    from filelock import FileLock

    for path in (home / name for name in found):
        lock = FileLock(f"{path}.lock", timeout=0)
        with suppress(OSError):  # it is in use, or no lock can tell
            lock.acquire()
            shutil.rmtree(f"{path}.tmp", ignore_errors=True)
            _unlock(lock)


def _publish(stage: Path, output: Path, is_folder: bool, durable: bool) -> None:
    names = [path.name for path in stage.iterdir()]
    home = output if is_folder else output.parent
    record = home / record_of(output, is_folder).name
    flush = sync if durable else lambda _: None
    for path in (*(stage / name for name in names), stage):
        flush(path)
    if is_folder and not output.exists():
        try:
            replace(stage, output)
            flush(output.parent)
            return
        except OSError:
            if not output.exists():
                raise  # else another conversion was there first
    (stage / _OLD).mkdir()
    with _locked(home / _LOCK):  # two conversions to one place come one after the other
        left_over = [home / path.name for path in _survey(output, is_folder, names)]
        # Without its record the old output counts for nothing, and the new one not yet.
        leaving = [*left_over, record, *(home / name for name in names)]
        out = [(path, stage / _OLD / path.name) for path in dict.fromkeys(leaving)]
        into = [(stage / name, home / name) for name in _in_order(names, record.name)]
        with _moved([*((a, b) for a, b in out if os.path.lexists(a)), *into]):
            if record.name in names:
                flush(home)
                replace(stage / record.name, record)
                flush(home)


@contextmanager
def _moved(moves: Iterable[tuple[Path, Path]]) -> Iterator[None]:
    """Move files, and back again on any error."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            replace(source, target)
            done.append((source, target))
        yield
    except BaseException:
        for source, target in reversed(done):
            with suppress(OSError):  # there is no more that could be done
                replace(target, source)
        raise


def _upload(stage: Path, output: RemotePath, is_folder: bool) -> None:
    names = [path.name for path in stage.iterdir()]
    home = output if is_folder else output.parent
    record = home / record_of(output, is_folder).name
    for old in (*_survey(output, is_folder, names), record):
        old.unlink(missing_ok=True)
    begun = []
    try:
        for name in [*_in_order(names, record.name), *({record.name} & {*names})]:
            begun.append(home / name)
            begun[-1].put(stage / name)
    except BaseException:
        for path in begun:
            with suppress(TFReaderError):  # what stopped the upload may stop this too
                path.unlink(missing_ok=True)
        raise


def _in_order(names: Iterable[str], record: str) -> list[str]:
    """All but the record, the config last: without it nothing loads what is not yet whole."""
    return sorted({*names} - {record}, key=lambda name: (name == "config.json", name))


def _survey(output: AnyPath, is_folder: bool, names: Collection[str]) -> list[AnyPath]:
    """What an earlier conversion wrote to a folder that is no part of this one.

    Raises OutputError for what its record does not prove to be of it where that would be loaded in
    place of what is to be written, and for what is no file where one is to be written.
    """
    home = output if is_folder else output.parent
    record = record_of(output, is_folder)
    for path in (home / name for name in (*names, record.name)):
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise OutputError(f"{path}: is no regular file; move it away, or name another output")
    if not is_folder:
        return []
    try:
        recorded = Recorded(load(record))
    except (FileNotFoundError, CorruptCheckpointError):
        recorded = None
    others = [path for path in home.iterdir() if path.name not in {*names, record.name}]
    ours = [path for path in others if recorded is not None and recorded.proves(path)]
    strangers = sorted(path.name for path in {*others} - {*ours} if overrules(path.name, names))
    if strangers:
        raise OutputError(
            f"{output}: has {', '.join(strangers)}, not as a conversion wrote it, and it would be "
            f"loaded in place of {overrules(strangers[0], names)}, or with it; move it away, or "
            "name another output"
        )
    return ours
