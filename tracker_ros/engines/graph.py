# SPDX-License-Identifier: Apache-2.0
"""A network part as a static graph: names, shapes and types of what goes in and comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn


class EngineUnavailable(RuntimeError):
    """An engine cannot be had here; the message says why, and what would help."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of one tensor.

    Attributes:
        shape: Every axis is fixed.
        dtype: "float32", "int64" or "bool", as the caller hands it over or gets it back, whatever
            an engine computes in.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class GraphSpec:
    """What a graph is called, takes and returns.

    Attributes:
        name: Unique within the model, such as "template" or "track".
        inputs: By name, in the order of the module's arguments.
        outputs: By name, in the order of the module's results.
        half: Whether it may be computed in half precision. Solvers and pooling may not, and what
            runs once per target need not.
        settings: What decides the numbers besides weights and shapes, as text: configuration and
            options. Two graphs that differ must differ in it: it is part of a cache's key.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    half: bool = True
    settings: str = ""

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Compare what an engine is called with to the inputs.

        Raises:
            ValueError: A tensor is missing, unknown, or of another shape or type; the message
                names graph and tensor.
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
            found = TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            if found != wanted:
                raise ValueError(
                    f"graph {self.name!r}: input {name!r} is {found.dtype} {found.shape}; "
                    f"expected {wanted.dtype} {wanted.shape}, which this graph is made for"
                )


@dataclass(frozen=True)
class Graph:
    """A graph with its weights, ready to be exported.

    Attributes:
        spec: Names, shapes, types.
        module: In eval mode, float32, on the CPU; plain torch operators that export. Its
            positional arguments and its tuple of results follow the spec.
        example: Draws plausible inputs by name from a seed: what engines are checked with.
        boxes: Reads (N, 4) boxes cxcywh and their (N,) scores from the outputs, so that engines
            that round differently can be compared by what they find; None where the outputs hold
            no boxes and are compared themselves.
        samples: How many independent samples it computes at once.
        batched: The graph of the same module, which is shared, for another number of samples; None
            where there is none.
    """

    spec: GraphSpec
    module: nn.Module
    example: Callable[[int], dict[str, Tensor]]
    boxes: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]] | None = None
    samples: int = 1
    batched: Callable[[int], Graph] | None = None


class Engine(ABC):
    """Something that computes one graph.

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
    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph.

        Args:
            **tensors: By name, with the shapes and types of the spec, on any device.

        Returns:
            By name, on the engine's device. They may be overwritten by the next call: clone what
            is to be kept.

        Raises:
            ValueError: See `GraphSpec.check`.
            RuntimeError: The engine failed; the message names it and the remedy.
        """

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use, and what else is worth a line of diagnostics."""
        return {"backend": self.backend, "device": self.device, "precision": self.precision}


def collect_runtime_info(main: Engine, engines: Iterable[Engine]) -> dict[str, str]:
    """What a model of several engines runs on.

    Args:
        main: The engine that does most of the work.
        engines: All of them, or the others.

    Returns:
        Facts of `main`; those of the others' gates and fallbacks under the names of their graphs.
    """
    facts = dict(main.runtime_info)
    for engine in engines:
        found = engine.runtime_info if engine is not main else {}
        for name in ("gate", "fallback"):
            if name in found:
                facts[f"{name} {engine.spec.name}"] = found[name]
    return facts
