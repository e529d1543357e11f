# SPDX-License-Identifier: Apache-2.0
"""Commands about engines: export a model's graphs, and look after the cache that holds them."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cli.options import (
    Command,
    add_family_option,
    add_json_option,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from tracker_ros.cache import Cache
    from tracker_ros.engines.graph import Graph
    from tracker_ros.engines.select_backend import Backend

BACKENDS = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}
LEFT_TO_TORCH = 1
"""Exit code of an export that left a graph to torch."""
SINGLE_ERROR = 1e-4
"""Largest difference to torch in float32, as a fraction of an output's largest value."""

DAMAGED = 1
"""Exit code of `engines` if an entry is damaged."""
UNKNOWN = "unknown"
_MEGABYTE = 1_000_000
_NAMES = {"engines": "engines", "exported": "exported graphs"}


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="see models")
    parser.add_argument("--weights", help="safetensors file, if none is embedded")
    parser.add_argument(
        "--backend", choices=list(BACKENDS), default="onnx", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="(default: fp32 for onnx, fp16 for tensorrt)",
    )
    add_family_option(parser)
    parser.add_argument(
        "--targets",
        type=int,
        default=1,
        metavar="N",
        help="also export graphs for several targets at once, up to N (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder to write to (default: the user's cache of engines)",
    )
    add_json_option(parser)


def _export(args: argparse.Namespace) -> int:
    from tracker_ros.cache import cache_folder
    from tracker_ros.engines.select_backend import Backend
    from tracker_ros.model_options import parse_options
    from tracker_ros.registry import model_graphs, resolve_device

    name = BACKENDS[args.backend]
    device = resolve_device("cpu" if name == "onnxruntime" else "auto")
    folder = args.out or cache_folder("engines")
    precision = args.precision or ("fp16" if name == "tensorrt" else "fp32")
    backend = Backend(name, device, precision, args.model, folder, build=True)
    graphs = model_graphs(args.model, args.weights, **parse_options(args.option))
    graphs += _of_several_targets(graphs, args.model, args.targets)
    exported = []
    with progress_bar(total=len(graphs), unit="graph", desc=args.model) as bar:
        for graph in graphs:
            bar.set_postfix_str(graph.spec.name)
            exported.append(_export_graph(backend, graph))
            bar.update()
    left = [entry for entry in exported if "fallback" in entry["runtime_info"]]
    if args.json:
        print_json({"model": args.model, "folder": str(folder), "graphs": exported})
        return LEFT_TO_TORCH if left else 0
    for entry in exported:
        print(f"{entry['graph']} ({entry['precision']}): {entry['check']['summary']}")
        if "file" in entry:
            print(f"  {entry['file']}")
        if entry in left:
            print(f"  left to torch: {entry['runtime_info']['fallback']}")
    remedy = f"use them with --engine-cache {folder}, in ROS engine_cache_dir:={folder}"
    print(remedy if args.out else f"kept in {folder}")
    return LEFT_TO_TORCH if left else 0


def _of_several_targets(graphs: Sequence[Graph], model: str, targets: int) -> list[Graph]:
    """Return the graphs for several targets at once, for all numbers up to `targets`."""
    from tracker_ros.models.one_stream.on_engines import TOGETHER

    sizes = sorted(TOGETHER)
    if targets not in (1, *sizes):
        raise ValueError(
            f"--targets is {targets}; expected 1 or {', '.join(map(str, sizes))}, among which "
            "trackers divide any other number"
        )
    several = [
        graph.batched(size)
        for graph in graphs
        if graph.batched is not None
        for size in sizes
        if size <= targets
    ]
    if targets > 1 and not several:
        raise ValueError(f"{model} tracks one target after another: leave out --targets")
    return several


def _export_graph(backend: Backend, graph: Graph) -> dict[str, Any]:
    """Export one graph, open it, and compare it to torch. Returns what is printed about it."""
    from tracker_ros.engines import parity_check
    from tracker_ros.engines.onnx_engine import exported_graph

    engine = backend.open(graph)
    report = parity_check.examine(engine, graph, engine.precision)
    problems = list(report.problems)
    if engine.precision == "fp32" and backend.name == "onnxruntime":
        problems += [
            f"output {name!r}: relative error {figures.relative_error:.1e} > {SINGLE_ERROR}"
            for name, figures in report.outputs.items()
            if not figures.relative_error <= SINGLE_ERROR
        ]
    if problems:
        raise RuntimeError(
            f"graph {graph.spec.name!r} in {engine.precision} does not equal torch: "
            f"{'; '.join(problems)}; use --precision fp32, or torch"
        )
    entry = {
        "graph": graph.spec.name,
        "precision": engine.precision,
        "runtime_info": engine.runtime_info,
        "check": report.as_dict(),
    }
    if backend.name == "onnxruntime":
        path = exported_graph(
            graph, backend.precision, backend.cache_dir, model=backend.model, build=False
        )
        entry |= {"file": str(path), "manifest": str(path.with_suffix(".json"))}
    return entry


def _engines_arguments(parser: argparse.ArgumentParser) -> None:
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
        metavar="DIR",
        help="folder of engines (default: the user's cache of engines)",
    )
    parser.add_argument(
        "--limit-mb",
        type=float,
        help="prune: megabytes to keep of engines and of exported graphs, 0 for none (default: "
        "what building and exporting keep to)",
    )
    add_json_option(parser)


def _engines(args: argparse.Namespace) -> int:
    from tracker_ros.cache import Cache, cache_folder
    from tracker_ros.engines.onnx_engine import graph_cache

    limit = args.limit_mb
    if limit is not None and (args.action != "prune" or not 0 <= limit * _MEGABYTE < math.inf):
        raise ValueError(f"--limit-mb {limit} is for prune, and at least 0")
    if args.cache is not None and not args.cache.is_dir():
        raise ValueError(f"--cache {args.cache} is no folder; give one that export wrote")
    folder = args.cache or cache_folder("engines")
    caches = {"engines": Cache(folder), "exported": graph_cache(folder)}
    if args.action == "prune":
        return _prune(caches, args)
    verify = args.action == "verify"
    found = {
        kind: [_described(cache, stem, verify=verify) for stem in cache.stems()]
        for kind, cache in caches.items()
    }
    if args.json:
        print_json({"folder": str(folder), **found})
    else:
        for kind, entries in found.items():
            for entry in entries:
                print(_line(entry))
            total = sum(entry.get("bytes", 0) for entry in entries) / _MEGABYTE
            print(f"{len(entries)} {_NAMES[kind]}, {total:.1f} MB in {caches[kind].folder}")
    return DAMAGED if any(e["problem"] for entries in found.values() for e in entries) else 0


def _prune(caches: dict[str, Cache], args: argparse.Namespace) -> int:
    report: dict[str, Any] = {"folder": str(caches["engines"].folder)}
    for kind, cache in caches.items():
        limit = cache.limit_bytes if args.limit_mb is None else int(args.limit_mb * _MEGABYTE)
        report[kind] = {"removed": cache.prune(limit, verify=True), "kept": cache.stems()}
    if args.json:
        print_json(report)
        return 0
    for kind, cache in caches.items():
        removed, kept = report[kind]["removed"], report[kind]["kept"]
        for stem in removed:
            print(f"removed {stem}")
        print(f"{len(removed)} {_NAMES[kind]} removed, {len(kept)} kept in {cache.folder}")
    return 0


def _described(cache: Cache, stem: str, *, verify: bool) -> dict[str, Any]:
    """Return what is known about an entry, and why it cannot be used."""
    from tracker_ros.cache import NotCached

    try:
        entry = cache.read(stem)
    except NotCached as problem:
        return {"name": stem, "problem": str(problem)}
    return {
        "name": stem,
        "problem": cache.verify(stem) if verify else "",
        "passed": bool(entry.sha256),
        "info": entry.info,
        "made": entry.made,
        "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used)),
        "bytes": entry.size,
        "key": {"graph": entry.key.subject, **entry.key.parts},
    }


def _line(entry: dict[str, Any]) -> str:
    if "key" not in entry:
        return f"{entry['name']}: {entry['problem']}"
    key, info = entry["key"], entry["info"]
    where = f", {key['tensorrt']} on {key.get('gpu', UNKNOWN)}" if "tensorrt" in key else ""
    text = (
        f"{entry['name']}: {key['graph']} in {key.get('precision', UNKNOWN)}{where}, "
        f"{entry['bytes'] / _MEGABYTE:.1f} MB, used {entry['used']}"
    )
    if "tensorrt" in key:
        state = "passed" if entry["passed"] else "refused"
        text += f"\n  {state}: {info.get('summary', 'no figures')}"
    return text + (f"\n  {entry['problem']}" if entry["problem"] else "")


EXPORT = Command(
    "export a model's graphs for ONNX Runtime or TensorRT",
    "Export a model's graphs as ONNX, or build TensorRT engines of them, and compare them to "
    "torch. Trackers find the user's cache by themselves; give them another folder as "
    "engine_cache_dir.",
    _export_arguments,
    _export,
)
ENGINES = Command(
    "list, verify and prune the cache of engines",
    "List built engines and exported graphs, verify their files, or prune what is damaged or was "
    "used longest ago.",
    _engines_arguments,
    _engines,
)
