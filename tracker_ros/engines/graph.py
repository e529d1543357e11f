# SPDX-License-Identifier: Apache-2.0
"""Static graphs, the parts of a network that engines compute: names, shapes and types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracker_ros.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("fp32", "fp16", "int8")
MIXED = "fp16-mixed"
"""Half precision in products only, for graphs that need float32 between them."""


class EngineUnavailable(RuntimeError):
    """An engine cannot be made here; the message says why, and what would help."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape of one tensor, and its type for the caller: "float32", "int64" or "bool".

    A side of -1 may have any length; only embedded graphs have such sides.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    def accepts(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Tell whether a tensor of this shape and type fits."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(own in (-1, other) for own, other in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True)
class GraphSpec:
    """Name, inputs and outputs of a graph.

    Attributes:
        name: Unique within the model, such as "template" or "track".
        inputs: By name, in the order of the module's arguments.
        outputs: By name, in the order of the module's results.
        half: Whether it may be computed in half precision. Solvers and pooling may not, and what
            runs once per target need not.
        settings: Configuration and options, as text: what decides the numbers besides weights and
            shapes. Graphs with other numbers must differ in it, since it is part of cache keys.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    half: bool = True
    settings: str = ""

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Check the tensors of a call against the inputs.

        Raises ValueError, which names graph and tensor, if one is missing, unknown, or of another
        shape or type.
        """
        for name in (*self.inputs, *tensors):
            if (name in tensors) != (name in self.inputs):
                problem = "is unknown" if name in tensors else "is missing"
                raise ValueError(
                    f"graph {self.name!r}: input {name!r} {problem}; "
                    f"expected {', '.join(self.inputs)}"
                )
        for name, wanted in self.inputs.items():
            tensor = tensors[name]
            shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
            if not wanted.accepts(shape, dtype):
                raise ValueError(
                    f"graph {self.name!r}: input {name!r} is {dtype} {shape}; "
                    f"expected {wanted.dtype} {wanted.shape}, which this graph is made for"
                )


@dataclass(frozen=True)
class Graph:
    """A graph with its weights, ready to be exported.

    Attributes:
        spec: Names, shapes, types.
        module: In eval mode, float32, on the CPU; plain torch operators that export. Its
            positional arguments and its tuple of results follow the spec.
        example: Draws plausible inputs by name from a seed, to check engines with.
        boxes: Reads (N, 4) boxes cxcywh and their (N,) scores from the outputs, so that engines
            that round differently can be compared by what they find; None for graphs whose
            outputs hold no boxes and are compared themselves.
        samples: How many independent samples it computes at once.
        batched: Returns the graph of the same module for another number of samples; None for
            graphs that have none.
        float_layers: Names of modules whose linear layers stay float32 when the others multiply
            8-bit integers; None for graphs that are not computed in int8.
    """

    spec: GraphSpec
    module: nn.Module
    example: Callable[[int], dict[str, Tensor]]
    boxes: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]] | None = None
    samples: int = 1
    batched: Callable[[int], Graph] | None = None
    float_layers: tuple[str, ...] | None = None

    def precision(self, wanted: str) -> str:
        """Return the precision of this graph when its model runs in `wanted`; else ValueError."""
        if wanted not in (*PRECISIONS, MIXED):
            raise ValueError(
                f"precision {wanted!r} is not available for engines; "
                f"expected {' or '.join(PRECISIONS)}"
            )
        possible = self.spec.half if wanted != "int8" else self.float_layers is not None
        return wanted if possible else "fp32"

    def reference(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return an example's inputs, and the outputs that the module computes from them."""
        inputs = self.example(seed)
        outputs = self.module(*inputs.values())
        return inputs, dict(zip(self.spec.outputs, outputs, strict=True))


class Engine(ABC):
    """Computes one graph.

    Attributes:
        spec: Of the graph.
        backend: "torch", "onnxruntime" or "tensorrt".
        device: Such as "cpu" or "cuda:0".
        precision: "fp32", "fp16", "bf16" or "int8".
    """

    spec: GraphSpec
    backend: str
    device: str
    precision: str

    @abstractmethod
    def __call__(self, **tensors: Array) -> dict[str, Array]:
        """Compute the graph from tensors by name, with the shapes and types of the spec.

        Inputs may be on any device; outputs are on the engine's. ONNX Runtime takes NumPy arrays
        as well, and returns what it was given. The next call may overwrite outputs: copy those to
        keep. Raises ValueError as `GraphSpec.check` does, RuntimeError if the
        engine failed; the message names it and the remedy.
        """

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use, and further facts for diagnostics."""
        return {"backend": self.backend, "device": self.device, "precision": self.precision}


def collect_runtime_info(main: Engine, engines: Iterable[Engine]) -> dict[str, str]:
    """Return the facts about a model of several engines.

    These are the facts of `main`, the engine that does most of the work; the parity checks and
    fallbacks of the others stand under the names of their graphs.
    """
    facts = dict(main.runtime_info)
    for engine in engines:
        found = engine.runtime_info if engine is not main else {}
        for name in ("parity", "fallback"):
            if name in found:
                facts[f"{name} {engine.spec.name}"] = found[name]
    return facts
