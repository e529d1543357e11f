# SPDX-License-Identifier: Apache-2.0
"""Export a model's graphs as ONNX, or build TensorRT's engines of them, and compare to torch.

What is written is a cache of engines: pass its folder as `engine_cache_dir`, or leave `--out` away
and trackers find it by themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cli.options import add_json_option, print_json, progress_bar

if TYPE_CHECKING:
    from tracker_ros.engines.graph import Graph
    from tracker_ros.engines.select_backend import Backend

SUMMARY = "export a model's graphs for ONNX Runtime or TensorRT"

LEFT_TO_TORCH = 1
BACKENDS = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}
SINGLE_ERROR = 1e-4
"""Largest difference to torch in float32, as a fraction of an output's largest value."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("model", help="see models")
    parser.add_argument("--weights", default=None, help="safetensors file, for models without own")
    parser.add_argument(
        "--backend", choices=list(BACKENDS), default="onnx", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default=None,
        help="(default: what the back end takes by itself, fp32 for onnx and fp16 for tensorrt)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the model's family, as for track; may be given several times",
    )
    parser.add_argument(
        "--targets",
        type=int,
        default=1,
        metavar="N",
        help="also export what looks at several targets at once, up to N (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder to write to (default: the user's cache of engines)",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Export every graph of a model."""
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
            exported.append(_export(backend, graph))
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
    """The graphs that are made for several targets at once, for all numbers up to `targets`.

    Raises:
        ValueError: The number is not known, or the model looks at one target after another.
    """
    from tracker_ros.models.one_stream.export import TOGETHER

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
        raise ValueError(f"{model} looks at one target after another: leave --targets away")
    return several


def _export(backend: Backend, graph: Graph) -> dict[str, Any]:
    """Write one graph, open it, and compare it to torch."""
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
