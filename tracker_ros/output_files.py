# SPDX-License-Identifier: Apache-2.0
"""Writes files that are there whole or not at all, and never over something that is read.

A file is written beside its place under another name, and renamed when it is complete and on the
disk. A full disk, a signal or a power failure leaves the earlier file as it was. What a killed
process has left is removed when the same file is written again.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tracker_ros.process import at_sudden_end

LEFT_OVER_S = 60.0
"""Age from which an unfinished file that no process holds is removed, seconds."""
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/self/fd/")
_TOKEN_BYTES = 4
_UNFINISHED_NAME = re.compile(rf"\..+\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.part(\.\w+)?")
_open: set[_Unfinished] = set()


class _Unfinished(ABC):
    """What is written at `path`, and is locked for as long as its process lives."""

    path: Path
    target: Path
    _descriptor: int | None = None

    def _hold(self, flags: int, mode: int = 0o777) -> int:
        """Open and lock what is at the path, so that others do not take it for a left-over.

        Returns its descriptor.
        """
        self._descriptor = descriptor = os.open(self.path, flags | os.O_CLOEXEC, mode)
        _open.add(self)
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor

    @abstractmethod
    def remove(self) -> None:
        """Remove what is at the path, and leave the rest to the end of the process."""

    def discard(self) -> None:
        """Remove what was written, unless it is in its place already."""
        if self._descriptor is not None:
            self.remove()
            os.close(self._descriptor)
            self._descriptor = None
        _open.discard(self)


class UnfinishedFile(_Unfinished):
    """A file that takes the place of another one, the target, when it is finished.

    It is written at `path` meanwhile, which ends like the target's name. The target's folder is
    made when missing; a link is followed; a device or a pipe is written to directly. A `private`
    file only this user may read. Another one gets the mode of the file that it replaces, or the
    usual one.

    Raises OSError, which names target and remedy, if it is a folder or cannot be written.
    """

    def __init__(self, target: Path, *, private: bool = False) -> None:
        self.target = self.path = target
        try:
            mode = target.stat().st_mode if target.exists() else None
            if mode is not None and stat.S_ISDIR(mode):
                raise IsADirectoryError(0, "it is a folder")
            if str(target.absolute()).startswith(_STREAMS) or (mode and not stat.S_ISREG(mode)):
                return
            self.target = Path(os.path.realpath(target))
            folder, name = self.target.parent, self.target
            folder.mkdir(parents=True, exist_ok=True)
            remove_left_overs(folder, name)
            token = secrets.token_hex(_TOKEN_BYTES)
            self.path = folder / f".{name.stem}.{token}.part{name.suffix}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = self._hold(flags, 0o600 if private else 0o666)
            if mode is not None and not private:
                with suppress(PermissionError):
                    os.fchmod(descriptor, stat.S_IMODE(mode))
        except OSError as error:
            self.discard()
            raise _unwritable(target, error) from error

    def finish(self) -> None:
        """Put the file on the disk and in its place; a second call does nothing."""
        if self._descriptor is None:
            return
        try:
            with self.path.open("rb+") as written:
                os.fsync(written.fileno())
            self.path.replace(self.target)
            _sync_folder(self.target.parent)
        finally:
            self.discard()

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class UnfinishedFolder(_Unfinished):
    """A folder to write in, at `path`, of which one file or folder then takes the target's place.

    What a killed process has left is removed when the same target is written again. Raises
    OSError, which names target and remedy, if it cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = Path(os.path.realpath(target))
        parent, begin = self.target.parent, f".{self.target.name}."
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for entry in os.scandir(parent):
                left = entry.name.startswith(begin) and entry.name.endswith(".part")
                if left and entry.is_dir(follow_symlinks=False):
                    old = time.time() - entry.stat().st_mtime > LEFT_OVER_S
                    if old and _is_free(Path(entry.path)):
                        shutil.rmtree(entry.path, ignore_errors=True)
            self.path = parent / f"{begin}{secrets.token_hex(_TOKEN_BYTES)}.part"
            self.path.mkdir()
            self._hold(os.O_RDONLY)
        except OSError as error:
            raise _unwritable(target, error) from error

    def unwritable(self, error: Exception) -> OSError:
        """Return the error to raise because of another one while it was written."""
        if not isinstance(error, OSError):
            error = OSError(0, str(error))
        return _unwritable(self.target, error)

    def finish(self, inside: Path) -> None:
        """Put what is `inside` on the disk and in its place, and remove the rest."""
        for file in [inside] if inside.is_file() else sorted(inside.rglob("*")):
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        inside.replace(self.target)
        _sync_folder(self.target.parent)
        self.discard()

    def remove(self) -> None:
        """Remove the folder with what was written."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def replacement(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a path to write to; the file there replaces `path` when the block ends.

    If the block raises, `path` is left as it was. Raises OSError, which names the file and the
    remedy, if it cannot be written.
    """
    unfinished = UnfinishedFile(path, private=private)
    try:
        yield unfinished.path
        unfinished.finish()
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        unfinished.discard()


def write_whole(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write a file that replaces `path`; text is encoded as UTF-8. See `replacement`."""
    data = content.encode() if isinstance(content, str) else content
    with replacement(path, private=private) as place, place.open("wb") as file:
        file.write(data)


def check_writable(*paths: Path | None) -> None:
    """Try to begin files, so that a long task does not fail at its end; see `UnfinishedFile`."""
    for path in filter(None, paths):
        UnfinishedFile(path).discard()


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, str | Path | None]
) -> None:
    """Refuse outputs that would replace an input or each other, or land in an input's folder.

    Both are given by what they are called on the command line, such as `--out`; None is left out.
    Raises ValueError, which names both.
    """
    read = {name: Path(path) for name, path in inputs.items() if path is not None}
    written: dict[str, Path] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        for other, known in [*read.items(), *written.items()]:
            inside = other in read and known.is_dir() and _same(path.parent, known)
            if inside or _same(path, known):
                raise ValueError(
                    f"{name} {path} would be overwritten or mixed up with {other} {known}; give "
                    f"{name} a name of its own, elsewhere"
                )
        written[name] = path


def remove_left_overs(folder: Path, target: Path | None = None) -> list[Path]:
    """Remove unfinished files that no process holds any more. Returns their paths.

    They are those of one target, or all in the folder.
    """
    removed = []
    with suppress(OSError):
        for entry in os.scandir(folder):
            if not _UNFINISHED_NAME.fullmatch(entry.name) or not entry.is_file(
                follow_symlinks=False
            ):
                continue
            path = Path(entry.path)
            of_target = target is None or _is_of(path, target)
            old = time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_OVER_S
            if of_target and old and _is_free(path):
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _is_of(path: Path, target: Path) -> bool:
    """Tell whether an unfinished file was to become a target."""
    begin, end = f".{target.stem}.", f".part{target.suffix}"
    middle = path.name[len(begin) : -len(end)]
    return (
        path.name.startswith(begin) and path.name.endswith(end) and len(middle) == 2 * _TOKEN_BYTES
    )


def _is_free(path: Path) -> bool:
    """Tell whether no living process holds an unfinished file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _same(one: Path, other: Path) -> bool:
    """Tell whether two paths are the same file, through links of either kind."""
    with suppress(OSError):
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def _sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Unwritable(OSError):
    """A file cannot be written; the message names it and the remedy."""


def _unwritable(path: Path, error: OSError) -> OSError:
    """Return the error of a file that cannot be written, unless it is such a one already."""
    if isinstance(error, _Unwritable):
        return error
    return _Unwritable(
        f"{path} cannot be written ({error.strerror or error}), and is left as it was; free some "
        "space, or give a file in a folder that you may write to"
    )


@at_sudden_end
def _discard_all() -> None:
    for unfinished in list(_open):
        with suppress(OSError):
            unfinished.remove()
