# SPDX-License-Identifier: Apache-2.0
"""Keeps built engines: checked when read, refused with a reason, pruned by age of use.

An entry is three files of one stem: the plan, the tensors it is tried with at start, and a sidecar
that names all that the plan depends on, the sha256 of both and how the plan passed the gate. The
sidecar is written last, so without it there is no entry. A plan that failed the gate leaves a
sidecar only, so that it is not built again.

The graphs that have been exported: listed, checked, removed when there are too many.

They lie in one folder per model. Beside each `NAME.onnx` stand its manifest `NAME.json`, written
last, whose time says when the graph was last used, and `NAME.safetensors`; see `onnx_export.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tracker_ros.cache_folder import cache_folder
from tracker_ros.checkpoints import sha256_of
from tracker_ros.cuda.build import locked, make_private

FORMAT = 1
DEFAULT_LIMIT_BYTES = 4 * 1024**3
_PLAN, _TRIAL, _SIDECAR, _LOCK, _UNFINISHED = ".plan", ".safetensors", ".json", ".lock", ".part"
_STEM_DIGITS = 16


class NotCached(Exception):
    """The cache has no such engine that may be used; the message says why not."""


@dataclass(frozen=True)
class EngineKey:
    """All that a plan depends on.

    Attributes:
        graph: Model and graph, such as "ostrack_tiny track".
        onnx: sha256 of what was parsed: weights, operators, shapes, types.
        precision: What the graph computes in.
        options: Of the builder.
        tensorrt: Package and version.
        driver: Version of the GPU's driver.
        cuda: Version of CUDA.
        gpu: Its name.
        capability: Its compute capability.
    """

    graph: str
    onnx: str
    precision: str
    options: str
    tensorrt: str
    driver: str
    cuda: str
    gpu: str
    capability: str

    @property
    def stem(self) -> str:
        """Name of the entry's files without their suffixes."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        name = "-".join("".join(c if c.isalnum() else " " for c in self.graph).split())
        return f"{name}-{self.precision}-{digest[:_STEM_DIGITS]}"

    def differences(self, other: EngineKey) -> list[str]:
        """What is another in `other`, as "driver is 580.1, was 570.2"."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name} is {_short(mine[name])}, was {_short(theirs[name])}"
            for name in mine
            if mine[name] != theirs[name]
        ]


@dataclass(frozen=True)
class Entry:
    """What is known of one engine in the cache.

    Attributes:
        stem: Of its files' names.
        key: What its plan depends on.
        gate: Report of the gate.
        passed: Whether the plan passed it; one that did not is not kept.
        sha256: Of each file, by suffix.
        built: When, UTC, as in ISO 8601.
        used: When it was last loaded or written, in seconds since 1970.
        size: Of all files, in bytes.
    """

    stem: str
    key: EngineKey
    gate: dict[str, Any]
    passed: bool
    sha256: dict[str, str]
    built: str
    used: float
    size: int


class EngineCache:
    """A folder of engines.

    Args:
        folder: Made if need be; it must belong to this user, and to nobody else. None takes
            "engines" below the user's cache folder.
        limit_bytes: The engines used longest ago are removed above this.

    Raises:
        OSError: The folder cannot be used; the message names it and the remedy.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder if folder is not None else cache_folder("engines")
        self.limit_bytes = limit_bytes
        make_private(self.folder)

    @contextmanager
    def building(self, key: EngineKey) -> Iterator[None]:
        """Keep other processes from building the same; they wait and then find it."""
        with locked(self._path(key.stem, _LOCK)):
            yield

    def find(self, key: EngineKey) -> Entry:
        """The entry of a key, passed or not.

        Raises:
            NotCached: There is none, or its sidecar cannot be trusted.
        """
        path = self._path(key.stem, _SIDECAR)
        if not os.path.lexists(path):
            raise NotCached(self._why_missing(key))
        entry = self.read(key.stem)
        differences = key.differences(entry.key)
        if differences:
            raise NotCached(f"{path.name} belongs to another engine: {'; '.join(differences)}")
        return entry

    def load(self, entry: Entry) -> tuple[bytes, bytes]:
        """Plan and trial tensors of an entry, which counts as used.

        Raises:
            NotCached: A file is missing, damaged, or not this user's alone.
        """
        if not entry.passed:
            raise NotCached(f"{entry.stem} failed the gate and was not kept")
        plan, trial = (self._checked(entry, suffix) for suffix in (_PLAN, _TRIAL))
        with suppress(OSError):  # of a cache that may only be read nothing is pruned either
            os.utime(self._path(entry.stem, _SIDECAR))
        return plan, trial

    def store(
        self,
        key: EngineKey,
        gate: Mapping[str, Any],
        contents: tuple[bytes, bytes] | None,
    ) -> None:
        """Keep a plan and its trial tensors, or, without them, that the gate refused the plan.

        Raises:
            OSError: The disk is full or cannot be written; nothing is left behind.
        """
        files = dict(zip((_PLAN, _TRIAL), contents or (), strict=False))
        sidecar = {
            "format": FORMAT,
            "key": asdict(key),
            "passed": contents is not None,
            "sha256": {suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()},
            "gate": dict(gate),
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.remove(key.stem)
        try:
            for suffix, data in files.items():
                self._write(self._path(key.stem, suffix), data)
            text = json.dumps(sidecar, indent=2) + "\n"
            self._write(self._path(key.stem, _SIDECAR), text.encode())
        except OSError:
            self.remove(key.stem)
            raise
        self.prune(self.limit_bytes, keep=key.stem)

    def stems(self) -> list[str]:
        """Every entry's stem, whole or damaged, sorted."""
        known = (_PLAN, _TRIAL, _SIDECAR, _UNFINISHED)
        return sorted({path.stem for path in self.folder.iterdir() if path.suffix in known})

    def read(self, stem: str) -> Entry:
        """The entry of a stem, by its sidecar.

        Raises:
            NotCached: The sidecar is missing, damaged or not this user's alone.
        """
        path = self._path(stem, _SIDECAR)
        content = _read_own(path)
        try:
            sidecar = json.loads(content)
            if sidecar["format"] != FORMAT:
                raise NotCached(f"{path.name} has format {sidecar['format']}, not {FORMAT}")
            return Entry(
                stem=stem,
                key=EngineKey(**{f.name: str(sidecar["key"][f.name]) for f in fields(EngineKey)}),
                gate=dict(sidecar["gate"]),
                passed=sidecar["passed"] is True,
                sha256={str(name): str(value) for name, value in sidecar["sha256"].items()},
                built=str(sidecar["built"]),
                used=path.stat().st_mtime,
                size=sum(file.stat().st_size for file in self._files(stem)),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotCached(f"{path.name} is damaged ({type(error).__name__}: {error})") from error

    def verify(self, stem: str) -> str:
        """Why an entry cannot be used on any machine; empty if nothing is wrong with its files."""
        try:
            entry = self.read(stem)
            for suffix in (_PLAN, _TRIAL) if entry.passed else ():
                self._checked(entry, suffix)
        except NotCached as problem:
            return str(problem)
        return ""

    def prune(self, limit_bytes: int, keep: str = "") -> list[str]:
        """Remove what is damaged, then what was used longest ago, down to a size.

        What another process is building stays.

        Args:
            limit_bytes: 0 removes everything.
            keep: A stem to keep in any case.

        Returns:
            The stems removed.
        """
        entries: list[Entry] = []
        doomed: list[str] = []
        for stem in self.stems():
            try:
                entries.append(self.read(stem))
            except NotCached:
                doomed.append(stem)
        total = sum(entry.size for entry in entries)
        for entry in sorted(entries, key=lambda entry: entry.used):
            if total > limit_bytes and entry.stem != keep:
                total -= entry.size
                doomed.append(entry.stem)
        return [stem for stem in doomed if self._remove_unless_building(stem)]

    def remove(self, stem: str) -> None:
        """Remove an entry's files, the sidecar first."""
        for suffix in (_SIDECAR, _TRIAL, _PLAN, _UNFINISHED):
            self._path(stem, suffix).unlink(missing_ok=True)

    def _remove_unless_building(self, stem: str) -> bool:
        with suppress(BlockingIOError), locked(self._path(stem, _LOCK), wait=False):
            self.remove(stem)
            return True
        return False

    def _path(self, stem: str, suffix: str) -> Path:
        return self.folder / f"{stem}{suffix}"

    def _files(self, stem: str) -> list[Path]:
        paths = [self._path(stem, suffix) for suffix in (_PLAN, _TRIAL, _SIDECAR)]
        return [path for path in paths if path.is_file()]

    def _why_missing(self, key: EngineKey) -> str:
        """Which fields keep the most similar entry of the same graph from being used."""
        nearest: list[str] = []
        for stem in self.stems():
            with suppress(NotCached):
                other = self.read(stem).key
                differences = key.differences(other)
                if other.graph == key.graph and (not nearest or len(differences) < len(nearest)):
                    nearest = differences
        if nearest:
            return f"the cached engine of {key.graph} does not fit: {'; '.join(nearest)}"
        return f"no engine of {key.graph} is cached"

    def _checked(self, entry: Entry, suffix: str) -> bytes:
        path = self._path(entry.stem, suffix)
        content = _read_own(path)
        found, wanted = hashlib.sha256(content).hexdigest(), entry.sha256.get(suffix, "")
        if found != wanted:
            raise NotCached(
                f"{path.name} is damaged: {len(content)} bytes with sha256 {_short(found)}, "
                f"expected {_short(wanted)}"
            )
        return content

    def _write(self, path: Path, data: bytes) -> None:
        """Write beside the final file, readable by this user only, and rename."""
        unfinished = path.with_suffix(_UNFINISHED)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)


def _read_own(path: Path) -> bytes:
    """A file's content, if it is a real file that nobody else could have written or replaced.

    Raises:
        NotCached: It is missing, a link, another user's, or open to others.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise NotCached(f"{path.name} is no regular file of user {os.getuid()}")
            if found.st_mode & 0o077:
                mode = stat.filemode(found.st_mode)
                raise NotCached(
                    f"{path.name} is open to others (mode {mode}, expected -rw-------)"
                )
            return file.read()
    except OSError as error:
        reason = "is a link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise NotCached(f"{path.name} {reason}") from error


def _short(value: str) -> str:
    """A digest's first digits; anything else whole."""
    is_digest = len(value) == hashlib.sha256().digest_size * 2 and value.isalnum()
    return f"{value[:12]}..." if is_digest else value or "nothing"


LIMIT_BYTES = 2 * 1024**3
_SUFFIXES = (".json", ".safetensors", ".onnx")  # in the order in which they are removed


@dataclass(frozen=True)
class ExportedGraph:
    """One exported graph.

    Attributes:
        path: The ONNX file.
        precision: What it was exported in.
        byte_count: Of its files.
        used: When it was last used, seconds since 1970.
        problem: Why it cannot be used; empty if nothing is known against it.
    """

    path: Path
    precision: str
    byte_count: int
    used: float
    problem: str

    @property
    def name(self) -> str:
        """Model and file."""
        return f"{self.path.parent.name}/{self.path.stem}"

    def remove(self) -> None:
        """Remove its files, the manifest first."""
        remove_exported(self.path)


def exported_graphs(folder: Path, *, verify: bool = False) -> list[ExportedGraph]:
    """What has been exported, sorted by name.

    Args:
        folder: Holds a folder for each model.
        verify: Compare the files to the digests in their manifests.
    """
    return [_described(path, verify) for path in sorted(folder.glob("*/*.onnx"))]


def prune_exported(folder: Path, limit_bytes: int, keep: Path | None = None) -> list[str]:
    """Remove what was used longest ago, down to a size.

    Args:
        folder: Holds a folder for each model.
        limit_bytes: 0 removes everything.
        keep: A file to keep in any case.

    Returns:
        The names of what was removed.
    """
    # What has no manifest may be in the making.
    graphs = [graph for graph in exported_graphs(folder) if not graph.problem]
    total = sum(graph.byte_count for graph in graphs)
    removed = []
    for graph in sorted(graphs, key=lambda graph: graph.used):
        if total > limit_bytes and graph.path != keep:
            graph.remove()
            total -= graph.byte_count
            removed.append(graph.name)
    return removed


def remove_exported(path: Path) -> None:
    """Remove an ONNX file and what stands beside it, the manifest first."""
    for suffix in _SUFFIXES:
        path.with_suffix(suffix).unlink(missing_ok=True)


def mark_used(path: Path) -> None:
    """Note that an exported graph is being used."""
    with suppress(OSError):  # of a folder that may only be read nothing is pruned either
        os.utime(path.with_suffix(".json"))


def _described(path: Path, verify: bool) -> ExportedGraph:
    manifest = path.with_suffix(".json")
    files = [file for suffix in _SUFFIXES if (file := path.with_suffix(suffix)).is_file()]
    size = sum(file.stat().st_size for file in files)
    precision, problem = "unknown", ""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        precision = str(content["precision"])
        digests = {
            part["file"]: part["sha256"] for part in (content["model"], content["reference"])
        }
        if verify:
            damaged = [n for n, digest in digests.items() if sha256_of(path.parent / n) != digest]
            problem = f"{', '.join(damaged)} damaged; export it again" if damaged else ""
        used = manifest.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"no manifest that can be read ({error}); export it again"
        used = path.stat().st_mtime
    return ExportedGraph(path, precision, size, used, problem)
