# SPDX-License-Identifier: Apache-2.0
"""Graphs that are part of the package, opened by ONNX Runtime: nothing to export, and no torch.

`graphs/NAME/` belongs to the weights `weights/NAME.safetensors` and holds a file for each graph,
`factors.safetensors` and `graphs.json`, the manifest; `python -m tools.embed_graphs` makes them. A
graph's file holds no weights: each of its large constants is a tensor of the weights, of which the
manifest says in which order its axes are, and by which factors its rows are multiplied (batch
norms, folded into the layers before them). So weights are kept once, in half precision, and
computed with in float32. Every file must have the digest that the manifest names.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker_ros.engines.graph import Engine, EngineUnavailable, GraphSpec, TensorSpec
from tracker_ros.engines.onnx_session import OnnxRuntimeEngine

MANIFEST, FACTORS = "graphs.json", "factors.safetensors"
_REMEDY = "install the package again, or use backend='torch'"


@dataclass(frozen=True)
class EmbeddedGraph:
    """A graph of an embedded model, to be opened by `EmbeddedModel.open`.

    Attributes:
        spec: Names, shapes, types.
        model: That it belongs to.
    """

    spec: GraphSpec
    model: EmbeddedModel

    def batched(self, samples: int) -> EmbeddedGraph:
        """Return the graph for several targets; raises EngineUnavailable if there is none."""
        return self.model.graph(f"{self.spec.name}_{samples}", self.spec.settings)


class EmbeddedModel:
    """The embedded graphs of one model, and its weights.

    Args:
        folder: Holds the manifest and the files that it names.
        weights: The safetensors file that the graphs were made of.
        precision: "fp32", or "int8" for graphs that exist in int8 too; others stay in fp32.

    Attributes:
        name: The back end, "onnxruntime".

    Raises:
        ValueError: A file is missing, unreadable, or has another digest; the message names it and
            the remedy.
        EngineUnavailable: The model has no graph in this precision.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, weights: Path, precision: str = "fp32") -> None:
        self._folder, self._precision = folder, precision
        self._manifest = _read_manifest(folder / MANIFEST)
        if precision != "fp32" and not any(map(self._is_reduced, self._manifest["graphs"])):
            raise EngineUnavailable(f"no graph is embedded in {precision}")
        self._weights = _tensors(weights, self._manifest["weights"])
        self._factors = _tensors(folder / FACTORS, self._manifest["factors"])

    def graphs(self, *names: str, settings: str) -> list[EmbeddedGraph]:
        """Return graphs by name; see `graph`."""
        return [self.graph(name, settings) for name in names]

    def graph(self, name: str, settings: str) -> EmbeddedGraph:
        """Return a graph that was made with these settings, see `GraphSpec`.

        Raises EngineUnavailable if there is none, or it was made with others.
        """
        facts = self._manifest["graphs"].get(name)
        if facts is None:
            raise EngineUnavailable(
                f"no graph {name!r} is embedded; another back end is needed: pip install torch"
            )
        if facts["settings"] != settings:
            raise EngineUnavailable(
                f"the embedded graph {name!r} is made for {facts['settings']}; for {settings} "
                "another back end is needed: pip install torch"
            )
        inputs, outputs = (_specs(facts[kind]) for kind in ("inputs", "outputs"))
        return EmbeddedGraph(GraphSpec(name, inputs, outputs, settings=settings), self)

    def open(self, graph: EmbeddedGraph) -> Engine:
        """Make the engine of a graph; EngineUnavailable if ONNX Runtime cannot load it."""
        reduced = f"{graph.spec.name}.{self._precision}"
        stem = reduced if reduced in self._manifest["graphs"] else graph.spec.name
        facts = self._manifest["graphs"][stem]
        content = _read(self._folder / f"{stem}.onnx", facts["sha256"])
        constants = {
            name: self._constant(f"{stem}/{name}", **how)
            for name, how in facts["constants"].items()
        }
        precision = self._precision if stem == reduced else "fp32"
        return OnnxRuntimeEngine(graph.spec, content, precision, "cpu", constants)

    def _is_reduced(self, stem: str) -> bool:
        return stem.endswith(f".{self._precision}")

    def _constant(
        self, name: str, of: str, shape: list[int], axes: list[int], scaled: bool
    ) -> np.ndarray:
        """Return a constant's value in float32.

        Args:
            name: Of the constant, with its graph's.
            of: Name of its tensor in the weights.
            shape: Of the constant.
            axes: Order of the tensor's axes in the constant; empty for the tensor's own.
            scaled: Whether rows of the tensor are multiplied by factors.
        """
        values = self._weights[of].astype(np.float32)
        if scaled:
            values = values * self._factors[name].reshape(-1, *[1] * (values.ndim - 1))
        if axes:
            values = values.transpose(axes)
        return np.ascontiguousarray(values.reshape(shape))


def _specs(facts: dict[str, Any]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(spec["shape"]), spec["dtype"]) for name, spec in facts.items()}


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and {"weights", "factors", "graphs"} <= manifest.keys():
            return manifest
        problem = "it lists no graphs"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise ValueError(f"embedded graphs {path} cannot be read ({problem}): {_REMEDY}")


def _read(path: str | os.PathLike[str], sha256: str) -> bytes:
    """Return a file's content; raises ValueError if it is missing or has another digest."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"embedded file {path} cannot be read ({error}): {_REMEDY}") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"embedded file {path} has sha256 {found}; expected {sha256} (it is damaged, altered "
            f"or of another version): {_REMEDY}"
        )
    return content


def _tensors(path: Path, sha256: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return dict(load(_read(path, sha256)))
