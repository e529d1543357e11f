# SPDX-License-Identifier: Apache-2.0
"""The graphs that have been exported: listed, checked, removed when there are too many.

They lie in one folder per model. Beside each `NAME.onnx` stand its manifest `NAME.json`, written
last, whose time says when the graph was last used, and `NAME.safetensors`; see `onnx_export.py`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracker_ros.weight_files import sha256_of

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
