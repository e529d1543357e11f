# SPDX-License-Identifier: Apache-2.0
"""List built engines and exported graphs, check them, remove what is damaged or long unused."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cli.options import add_json_option, print_json

if TYPE_CHECKING:
    from tracker_ros.engines.cache import EngineCache, ExportedGraph

SUMMARY = "list, verify and prune the cache of engines"
DAMAGED = 1
_MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "verify", "prune"),
        default="list",
        help="list what there is; verify the files, exiting with 1 if any is damaged; prune what "
        "is damaged, then what was used longest ago, down to --limit-mb (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of engines (default: the user's cache of engines)",
    )
    parser.add_argument(
        "--limit-mb",
        type=float,
        default=None,
        help="prune: megabytes to keep of engines and of exported graphs, 0 for none (default: "
        "what building and exporting keep to)",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Look at the cache, and print what was found."""
    from tracker_ros.engines.cache import EngineCache, exported_graphs

    limit = args.limit_mb
    if limit is not None and (args.action != "prune" or not 0 <= limit < math.inf):
        raise ValueError(f"--limit-mb {limit} is for prune, and at least 0")
    if args.cache is not None and not args.cache.is_dir():
        raise ValueError(f"--cache {args.cache} is no folder; give one that export wrote")
    cache = EngineCache(args.cache)
    if args.action == "prune":
        return _prune(cache, args)
    verify = args.action == "verify"
    engines = [_described(cache, stem, verify=verify) for stem in cache.stems()]
    graphs = exported_graphs(_onnx_folder(cache), verify=verify)
    if args.json:
        print_json(
            {
                "folder": str(cache.folder),
                "engines": engines,
                "exported": [
                    {"name": graph.name} | asdict(graph) | {"path": str(graph.path)}
                    for graph in graphs
                ],
            }
        )
    else:
        for line in (*map(_line, engines), *map(_line_of_graph, graphs)):
            print(line)
        total = sum(engine.get("bytes", 0) for engine in engines) / _MEGABYTE
        print(f"{len(engines)} engines, {total:.1f} MB in {cache.folder}")
        total = sum(graph.byte_count for graph in graphs) / _MEGABYTE
        print(f"{len(graphs)} exported graphs, {total:.1f} MB in {_onnx_folder(cache)}")
    problems = [*(engine["problem"] for engine in engines), *(graph.problem for graph in graphs)]
    return DAMAGED if any(problems) else 0


def _onnx_folder(cache: EngineCache) -> Path:
    return cache.folder / "onnx"


def _prune(cache: EngineCache, args: argparse.Namespace) -> int:
    from tracker_ros.engines.cache import LIMIT_BYTES, exported_graphs, prune_exported

    limit = None if args.limit_mb is None else int(args.limit_mb * _MEGABYTE)
    removed = cache.prune(cache.limit_bytes if limit is None else limit)
    folder = _onnx_folder(cache)
    damaged = [graph for graph in exported_graphs(folder, verify=True) if graph.problem]
    for graph in damaged:
        graph.remove()
    removed_graphs = [graph.name for graph in damaged]
    removed_graphs += prune_exported(folder, LIMIT_BYTES if limit is None else limit)
    kept = [graph.name for graph in exported_graphs(folder)]
    if args.json:
        engines = {"removed": removed, "kept": cache.stems()}
        exported = {"removed": removed_graphs, "kept": kept}
        print_json({"folder": str(cache.folder), **engines, "exported": exported})
        return 0
    for name in (*removed, *removed_graphs):
        print(f"removed {name}")
    print(f"{len(removed)} engines removed, {len(cache.stems())} kept in {cache.folder}")
    print(f"{len(removed_graphs)} exported graphs removed, {len(kept)} kept in {folder}")
    return 0


def _described(cache: EngineCache, stem: str, *, verify: bool) -> dict[str, Any]:
    """What is known of an entry, and what is wrong with it; its sidecar is always read."""
    from tracker_ros.engines.cache import NotCached

    try:
        entry = cache.read(stem)
    except NotCached as problem:
        return {"name": stem, "problem": str(problem)}
    return {
        "name": stem,
        "problem": cache.verify(stem) if verify else "",
        "passed": entry.passed,
        "gate": entry.gate,
        "built": entry.built,
        "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used)),
        "bytes": entry.size,
        "key": asdict(entry.key),
    }


def _line_of_graph(graph: ExportedGraph) -> str:
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(graph.used))
    size = graph.byte_count / _MEGABYTE
    return f"{graph.name}: exported in {graph.precision}, {size:.1f} MB, used {used}" + (
        f"\n  {graph.problem}" if graph.problem else ""
    )


def _line(engine: dict[str, Any]) -> str:
    """One entry for people."""
    if "key" not in engine:
        return f"{engine['name']}: {engine['problem']}"
    key, gate = engine["key"], engine["gate"]
    state = "passed" if engine["passed"] else "refused"
    text = (
        f"{engine['name']}: {key['graph']} in {key['precision']}, {key['tensorrt']} on "
        f"{key['gpu']}, {engine['bytes'] / _MEGABYTE:.1f} MB, used {engine['used']}\n"
        f"  {state}: {gate.get('summary', 'no figures')}"
    )
    return text + (f"\n  {engine['problem']}" if engine["problem"] else "")
