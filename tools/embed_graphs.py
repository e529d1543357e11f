# SPDX-License-Identifier: Apache-2.0
"""Export the embedded models' graphs into the package, where ONNX Runtime runs them without torch.

    python -m tools.embed_graphs [WEIGHTS ...]

WEIGHTS are names of embedded weights, such as ostrack_tiny; all without any. Run it after weights
or networks have changed: it takes up to a minute for each. `tracker_ros/engines/embedded.py` says
what the files are. A graph is compared with torch before it is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import load, save

from tracker_ros import list_models, model_card
from tracker_ros.engines import parity_check
from tracker_ros.engines.embedded import FACTORS, MANIFEST, EmbeddedModel
from tracker_ros.engines.graph import Graph
from tracker_ros.engines.onnx_engine import export_onnx
from tracker_ros.model_cards import embedded_file, embedded_graphs
from tracker_ros.registry import model_graphs

TARGETS = (2, 4)
"""How many targets there are further graphs for."""
LEAST_BYTES = 1024
"""Smaller constants stay in the graph's file."""
MOST_BYTES = 12_000_000
SINGLE_ERROR = 1e-4
"""Largest difference to torch, as a fraction of an output's largest value."""

Recipe = dict[str, Any]


def main() -> None:
    """Make the graphs of the named weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    models: dict[str, list[str]] = {}
    for name in list_models():
        if weights := model_card(name).weights:
            models.setdefault(Path(weights).stem, []).append(name)
    parser.add_argument("weights", nargs="*", metavar="WEIGHTS", help=f"{', '.join(models)}")
    wanted = parser.parse_args().weights or list(models)
    for stem in wanted:
        if not embedded_file(f"{stem}.safetensors").is_file():
            parser.error(f"there are no embedded weights {stem!r}; expected {', '.join(models)}")
        embed(stem, models[stem])


def embed(stem: str, models: list[str]) -> None:
    """Write the graphs of weights that some models share, and check them."""
    weights = embedded_file(f"{stem}.safetensors")
    content = weights.read_bytes()
    tensors = {key: value.astype(np.float32) for key, value in load(content).items()}
    graphs = _graphs_of(models)
    folder = embedded_graphs(stem)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    factors: dict[str, np.ndarray] = {}
    manifest: dict[str, Any] = {"weights": _sha256(content), "graphs": {}}
    for name, precision, graph in _files(graphs):
        files, info = export_onnx(_of_one_size(graph), precision)
        model = onnx.load_from_string(files[".onnx"])
        _strip(model)
        _free_sides(model, graph)
        constants = _without_weights(model, tensors, name, factors)
        exported = model.SerializeToString(deterministic=True)
        if len(exported) > MOST_BYTES:
            raise SystemExit(f"graph {name} of {stem} takes {len(exported)} bytes: too large")
        (folder / f"{name}.onnx").write_bytes(exported)
        manifest["graphs"][name] = {
            "sha256": _sha256(exported),
            "settings": graph.spec.settings,
            "inputs": {key: asdict(spec) for key, spec in graph.spec.inputs.items()},
            "outputs": {key: asdict(spec) for key, spec in graph.spec.outputs.items()},
            "constants": constants,
        }
        manifest["tools"] = info["tools"]
    packed = save(factors)
    (folder / FACTORS).write_bytes(packed)
    manifest["factors"] = _sha256(packed)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _check(folder, weights, graphs)


def _files(graphs: dict[str, Graph]) -> Iterator[tuple[str, str, Graph]]:
    """Yield name of file, precision and graph for everything that is embedded."""
    for name, graph in graphs.items():
        yield name, "fp32", graph
        if graph.precision("int8") == "int8":
            yield f"{name}.int8", "int8", graph


def _graphs_of(models: list[str]) -> dict[str, Graph]:
    """Return all graphs of models by name; models that share weights share them."""
    graphs: dict[str, Graph] = {}
    for model in models:
        found = _mast_graphs(model) if model_card(model).family == "mast" else model_graphs(model)
        found += [graph.batched(n) for graph in found if graph.batched for n in TARGETS]
        for graph in found:
            first = graphs.setdefault(graph.spec.name, graph)
            if first.spec != graph.spec:
                raise SystemExit(f"graph {graph.spec.name} differs between {', '.join(models)}")
    return graphs


def _mast_graphs(model: str) -> list[Graph]:
    """Return the graph for images of any size; `model_graphs` has one for each size."""
    from tracker_ros.checkpoints import read_network
    from tracker_ros.models.mast.config import MAST_MODELS
    from tracker_ros.models.mast.export import any_size_graph
    from tracker_ros.models.mast.factory import empty_network

    _, side = MAST_MODELS[model]
    network = read_network(empty_network(model), embedded_file(f"{model}.safetensors"))
    # An odd size, so that no side is taken to be divisible.
    return [any_size_graph(network, side + 1, side * 4 // 3 + 3)]


def _of_one_size(graph: Graph) -> Graph:
    """Return a graph that takes any size as one of its example's size, which can be exported."""
    with torch.no_grad():
        tensors = graph.reference(0)
    inputs, outputs = (
        {name: replace(spec, shape=tuple(given[name].shape)) for name, spec in specs.items()}
        for specs, given in zip((graph.spec.inputs, graph.spec.outputs), tensors, strict=True)
    )
    return replace(graph, spec=replace(graph.spec, inputs=inputs, outputs=outputs))


def _free_sides(model: onnx.ModelProto, graph: Graph) -> None:
    """Let sides of -1 have any length; the graphs that have some are convolutions and sums."""
    specs = {**graph.spec.inputs, **graph.spec.outputs}
    for value in (*model.graph.input, *model.graph.output):
        for axis, side in enumerate(specs[value.name].shape):
            if side == -1:
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"


def _strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes for people who debug it, two thirds of a file."""
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    model.ClearField("doc_string")
    for part in (
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        part.ClearField("doc_string")
        del part.metadata_props[:]


def _without_weights(
    model: onnx.ModelProto,
    tensors: dict[str, np.ndarray],
    graph: str,
    factors: dict[str, np.ndarray],
) -> dict[str, Recipe]:
    """Take constants out of a graph that can be made of its weights; return how.

    Factors are added under the names of graph and constant.
    """
    recipes: dict[str, Recipe] = {}
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.nbytes < LEAST_BYTES or values.dtype != np.float32:
            continue
        found = _recipe(values, tensors)
        if found is None:
            continue
        recipe, scales = found
        recipes[constant.name] = recipe
        if scales is not None:
            factors[f"{graph}/{constant.name}"] = scales
        constant.ClearField("raw_data")
        constant.ClearField("float_data")
        constant.data_location = onnx.TensorProto.EXTERNAL
        constant.external_data.add(key="location", value="weights")
    return recipes


def _recipe(
    values: np.ndarray, tensors: dict[str, np.ndarray]
) -> tuple[Recipe, np.ndarray | None] | None:
    """Return how a constant is made of a tensor of the weights, bit by bit, and its factors."""
    for key, tensor in tensors.items():
        if tensor.size != values.size:
            continue
        for axes in ([], [1, 0], [0, 2, 3, 1]):
            if axes and len(axes) != tensor.ndim:
                continue
            moved = tensor.transpose(axes) if axes else tensor
            if np.array_equal(moved.reshape(values.shape), values):
                recipe = {"of": key, "shape": list(values.shape), "axes": axes, "scaled": False}
                return recipe, None
        if (scales := _row_factors(values, tensor)) is not None:
            return {"of": key, "shape": list(values.shape), "axes": [], "scaled": True}, scales
    return None


def _row_factors(values: np.ndarray, tensor: np.ndarray) -> np.ndarray | None:
    """Return what the rows of a tensor were multiplied by in float32, if that gives the values."""
    rows, wanted = (array.reshape(tensor.shape[0], -1) for array in (tensor, values))
    largest = np.abs(rows).argmax(axis=1)[:, None]
    divisor = np.take_along_axis(rows, largest, 1)
    if not divisor.all():
        return None
    guess = (np.take_along_axis(wanted, largest, 1).astype(np.float64) / divisor)[:, 0]
    found = np.zeros(len(rows), np.float32)
    open_rows = np.ones(len(rows), bool)
    below = above = guess.astype(np.float32)
    for _ in range(4):
        for candidate in (below, above):
            fits = open_rows & (rows * candidate[:, None] == wanted).all(axis=1)
            found[fits] = candidate[fits]
            open_rows &= ~fits
        if not open_rows.any():
            return found
        below, above = np.nextafter(below, -np.inf), np.nextafter(above, np.inf)
    return None


def _check(folder: Path, weights: Path, graphs: dict[str, Graph]) -> None:
    """Compare the graphs, read as a tracker reads them, with torch; print their sizes."""
    for name, precision, graph in _files(graphs):
        model = EmbeddedModel(folder, weights, precision)
        engine = model.open(model.graph(graph.spec.name, graph.spec.settings))
        report = parity_check.examine(engine, graph, precision, crops=16)
        problems = list(report.problems) + [
            f"{output}: relative error {figures.relative_error:.1e}"
            for output, figures in report.outputs.items()
            if precision == "fp32" and not figures.relative_error <= SINGLE_ERROR
        ]
        size = (folder / f"{name}.onnx").stat().st_size
        print(f"{folder.name} {name}: {size / 1e3:.0f} kB, {report.summary()}")
        if problems:
            raise SystemExit(f"graph {name} does not equal torch: {'; '.join(problems)}")
    total = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder.name}: {total / 1e6:.2f} MB")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
