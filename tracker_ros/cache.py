# SPDX-License-Identifier: Apache-2.0
"""Keeps files that take long to make: compiled kernels, exported graphs, built engines.

An entry is one or more files of the same stem and a sidecar, STEM.json, which lists everything
that the files depend on (their key), the sha256 of each, and what else is known about them. The
sidecar is written last: without it there is no entry. Files are checked whenever they are used,
and those used longest ago are removed when the cache grows too large.

What is kept here is run later, so one rule holds for all of it: folder and files belong to this
user, nobody else may enter or read them, none is a link, and each has the sha256 of its sidecar.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from tracker_ros.output_files import remove_left_overs, write_whole

FORMAT = 2
DEFAULT_LIMIT_BYTES = 4 * 1024**3
MAX_SIDECAR_BYTES = 1024**2
MAX_FILE_BYTES = DEFAULT_LIMIT_BYTES
_SIDECAR, _LOCK = ".json", ".lock"
_DIGITS = 16
_ENTRY_FILE = re.compile(rf".+-[0-9a-f]{{{_DIGITS}}}\.(?!lock$)\w+")

Files = Mapping[str, bytes]
"""Contents by suffix, such as ".onnx"."""


class NotCached(Exception):
    """The cache has no entry that may be used; the message says why."""


def cache_folder(purpose: str) -> Path:
    """Return the folder for one purpose, such as "engines", below the user's cache folder.

    It may not exist yet. Raises RuntimeError if the user has no home folder, as in some
    containers.
    """
    from platformdirs import user_cache_path

    try:
        root = user_cache_path("tracker_ros", appauthor=False)
    except RuntimeError:
        root = Path("~")  # what older versions return
    if not root.is_absolute():
        raise RuntimeError("there is no folder for a cache; set HOME or XDG_CACHE_HOME")
    return root / purpose


@dataclass(frozen=True)
class Key:
    """Everything that an entry's files depend on."""

    subject: str  # what the files are of, such as "ostrack_tiny track"
    # values by name; "precision", if there is one, becomes part of the files' names
    parts: Mapping[str, str]

    @property
    def stem(self) -> str:
        """Name of the entry's files without their suffixes."""
        content = json.dumps([self.subject, dict(self.parts)], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]
        words = "".join(c if c.isalnum() or c == "_" else " " for c in self.subject).split()
        return "-".join([*words, *filter(None, [self.parts.get("precision")]), digest])

    def differences(self, other: Key) -> list[str]:
        """Return what differs in `other`, as "driver is 580.1, was 570.2"."""
        names = dict.fromkeys([*self.parts, *other.parts])
        pairs = [(name, self.parts.get(name, ""), other.parts.get(name, "")) for name in names]
        if self.subject != other.subject:
            pairs.insert(0, ("subject", self.subject, other.subject))
        return [f"{name} is {_short(a)}, was {_short(b)}" for name, a, b in pairs if a != b]


@dataclass(frozen=True)
class Entry:
    """What is known about one entry."""

    stem: str  # name of its files without their suffixes
    key: Key  # what its files depend on
    sha256: dict[str, str]  # of each file, by suffix; empty if making the files failed for good
    info: dict[str, Any]  # further facts, for people and for whoever made the entry
    made: str  # when, UTC, in ISO 8601
    used: float  # when it was last used or written, in seconds since 1970
    size: int  # of all files, in bytes
    sizes: dict[str, int]  # of each file in bytes, by suffix


class Cache:
    """A folder of entries, made if need be; those used longest ago make room for others.

    Raises OSError, which names the folder and the remedy, if it cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        try:
            _make_private(folder)
        except OSError:
            if os.path.lexists(folder):
                raise
            # Nothing can be found here; storing raises.

    def find(self, key: Key) -> Entry:
        """Return the entry of a key; raises NotCached if there is none that can be trusted."""
        path = self.path(key.stem, _SIDECAR)
        if not os.path.lexists(path):
            raise NotCached(self._why_missing(key))
        entry = self.read(key.stem)
        if differences := key.differences(entry.key):
            raise NotCached(f"{path.name} belongs to another entry: {'; '.join(differences)}")
        return entry

    def paths(self, entry: Entry) -> dict[str, Path]:
        """Return an entry's files by suffix, after checking them; the entry counts as used.

        Raises NotCached if a file is missing, damaged, or open to other users.
        """
        for suffix, wanted in entry.sha256.items():
            path = self.path(entry.stem, suffix)
            with _opened(path) as file:
                digest, left = hashlib.sha256(), _size(path, file, entry.sizes[suffix])
                while left > 0 and (chunk := file.read(min(left, 1 << 20))):
                    digest.update(chunk)
                    left -= len(chunk)
                _check_digest(path, digest.hexdigest(), wanted)
        self._mark_used(entry)
        return {suffix: self.path(entry.stem, suffix) for suffix in entry.sha256}

    def load(self, entry: Entry) -> dict[str, bytes]:
        """Return an entry's contents by suffix, checked as `paths` checks them."""
        contents = {}
        for suffix, wanted in entry.sha256.items():
            path = self.path(entry.stem, suffix)
            with _opened(path) as file:
                contents[suffix] = file.read(_size(path, file, entry.sizes[suffix]))
            _check_digest(path, hashlib.sha256(contents[suffix]).hexdigest(), wanted)
        self._mark_used(entry)
        return contents

    def store(self, key: Key, files: Files, info: Mapping[str, Any]) -> Entry:
        """Write an entry and make room for it; no files mean that making them failed for good.

        Raises OSError if the disk is full or cannot be written; nothing is left behind.
        """
        sidecar = {
            "format": FORMAT,
            "subject": key.subject,
            "key": dict(key.parts),
            "sha256": {suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()},
            "bytes": {suffix: len(data) for suffix, data in files.items()},
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "info": dict(info),
        }
        text = json.dumps(sidecar, indent=2) + "\n"
        _make_private(self.folder)
        self.remove(key.stem)
        try:
            for suffix, data in {**files, _SIDECAR: text.encode()}.items():
                write_whole(self.path(key.stem, suffix), data, private=True)
        except OSError:
            self.remove(key.stem)
            raise
        self.prune(self.limit_bytes, keep=key.stem)
        return self.read(key.stem)

    def obtain(self, key: Key, make: Callable[[], tuple[Files, Mapping[str, Any]]]) -> Entry:
        """Return the entry of a key, made first if it is missing or damaged.

        A second process that wants the same entry waits for the first. `make` returns the files
        and what else is known about them. Raises OSError if the folder cannot be written.
        """
        with self.lock(key.stem):
            try:
                entry = self.find(key)
                self.paths(entry)
            except NotCached:
                entry = self.store(key, *make())
        return entry

    @contextmanager
    def lock(self, stem: str, *, wait: bool = True) -> Iterator[None]:
        """Keep other processes from making the same entry; `wait` until they release it.

        Raises filelock.Timeout if another process holds the lock and `wait` is false, OSError if
        the folder cannot be written.
        """
        from filelock import FileLock

        _make_private(self.folder)
        with FileLock(self.path(stem, _LOCK), timeout=-1 if wait else 0):
            yield

    def stems(self) -> list[str]:
        """Return every entry's stem, whole or damaged, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted({p.stem for p in self.folder.iterdir() if _ENTRY_FILE.fullmatch(p.name)})

    def read(self, stem: str) -> Entry:
        """Return the entry that a stem's sidecar describes; raises NotCached if it is unusable."""
        path = self.path(stem, _SIDECAR)
        with _opened(path) as file:
            content = file.read(_size(path, file, None, MAX_SIDECAR_BYTES))
        try:
            sidecar = json.loads(content)
            if sidecar["format"] != FORMAT:
                raise NotCached(f"{path.name} has format {sidecar['format']}, not {FORMAT}")
            parts = {str(name): str(value) for name, value in sidecar["key"].items()}
            return Entry(
                stem=stem,
                key=Key(str(sidecar["subject"]), parts),
                sha256={str(suffix): str(value) for suffix, value in sidecar["sha256"].items()},
                info=dict(sidecar["info"]),
                made=str(sidecar["made"]),
                used=path.lstat().st_mtime,
                size=sum(file.lstat().st_size for file in self._files(stem)),
                sizes={str(name): int(sidecar["bytes"][name]) for name in sidecar["sha256"]},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise NotCached(f"{path.name} is damaged ({type(error).__name__}: {error})") from error

    def verify(self, stem: str) -> str:
        """Return why an entry's files cannot be used on any machine; empty if they can."""
        try:
            entry = self.read(stem)
            used = entry.used
            self.paths(entry)
            os.utime(self.path(stem, _SIDECAR), (used, used))
        except NotCached as problem:
            return str(problem)
        return ""

    def prune(self, limit_bytes: int, *, keep: str = "", verify: bool = False) -> list[str]:
        """Remove damaged entries, then those used longest ago until the rest fits.

        Returns the stems of what was removed. What killed processes have left unfinished is
        removed too. Entries that another process is making stay, and the one to `keep`. With
        `verify` all files are read to find damage, rather than the sidecars only.
        """
        remove_left_overs(self.folder)
        entries: list[Entry] = []
        doomed: list[str] = []
        for stem in self.stems():
            try:
                entry = self.read(stem)
                if verify and self.verify(stem):
                    raise NotCached
                entries.append(entry)
            except NotCached:
                doomed.append(stem)
        total = sum(entry.size for entry in entries)
        for entry in sorted(entries, key=lambda entry: entry.used):
            if total > limit_bytes and entry.stem != keep:
                total -= entry.size
                doomed.append(entry.stem)
        return [stem for stem in doomed if self._remove_unless_locked(stem)]

    def remove(self, stem: str) -> None:
        """Remove an entry's files, the sidecar first."""
        for path in sorted(self._files(stem), key=lambda path: path.suffix != _SIDECAR):
            path.unlink(missing_ok=True)

    def path(self, stem: str, suffix: str) -> Path:
        """Return the path of one of an entry's files, which may not exist."""
        return self.folder / f"{stem}{suffix}"

    def _files(self, stem: str) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = self.folder.glob(f"{escape(stem)}.*")
        return [p for p in found if p.suffix != _LOCK and (p.is_symlink() or not p.is_dir())]

    def _remove_unless_locked(self, stem: str) -> bool:
        from filelock import Timeout

        with suppress(Timeout), self.lock(stem, wait=False):
            self.remove(stem)
            return True
        return False

    def _mark_used(self, entry: Entry) -> None:
        with suppress(OSError):  # nothing is pruned from a cache that may only be read
            os.utime(self.path(entry.stem, _SIDECAR))

    def _why_missing(self, key: Key) -> str:
        """Return which parts keep the most similar entry of the same subject from being used."""
        nearest: list[str] = []
        for stem in self.stems():
            with suppress(NotCached):
                other = self.read(stem).key
                differences = key.differences(other)
                similar = not nearest or len(differences) < len(nearest)
                if other.subject == key.subject and similar:
                    nearest = differences
        if nearest:
            return f"the cached entry of {key.subject} does not fit: {'; '.join(nearest)}"
        return f"{key.subject} is not cached in {self.folder}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading that nobody else could replace; else NotCached."""
    try:
        # Opening a device can have effects, so it is looked at before it is opened.
        if not stat.S_ISREG(os.lstat(path).st_mode) and not path.is_symlink():
            raise NotCached(f"{path.name} is no regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise NotCached(f"{path.name} is no regular file of user {os.getuid()}")
            if found.st_mode & 0o077:
                mode = stat.filemode(found.st_mode)
                raise NotCached(
                    f"{path.name} is open to others (mode {mode}, expected -rw-------); "
                    "chmod go= its folder's files if they are yours"
                )
            yield file
    except OSError as error:
        reason = "is a link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise NotCached(f"{path.name} {reason}") from error


def _size(path: Path, file: BinaryIO, wanted: int | None, limit: int = MAX_FILE_BYTES) -> int:
    """Return how many bytes of a file to read; raises NotCached if it has another size."""
    found = os.fstat(file.fileno()).st_size
    if found > limit or wanted not in (None, found):
        expected = f"at most {limit}" if wanted is None else str(wanted)
        raise NotCached(f"{path.name} is damaged: it has {found} bytes, expected {expected}")
    return found


def _make_private(folder: Path) -> None:
    """Make a folder for this user only, since its files are executed later.

    One that exists stays as it is: others may read it, as earlier versions allowed. Raises
    PermissionError if it is a link, belongs to another user, or others may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{folder} (mode {stat.filemode(found.st_mode)}, user {found.st_uid}) must be a real "
            f"folder of user {os.getuid()} that nobody else may write to; remove it, or take "
            "the rights of others away (chmod 700)"
        )


def _check_digest(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise NotCached(
            f"{path.name} is damaged: its sha256 is {_short(found)}, expected {_short(wanted)}"
        )


def _short(value: str) -> str:
    """Return a digest's first digits; anything else whole."""
    is_digest = len(value) == hashlib.sha256().digest_size * 2 and value.isalnum()
    return f"{value[:12]}..." if is_digest else value or "nothing"
