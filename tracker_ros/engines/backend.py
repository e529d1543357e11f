# SPDX-License-Identifier: Apache-2.0
"""What a model is asked to run on, and how its graphs become engines there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph, GraphSpec


@dataclass(frozen=True)
class Backend:
    """One way to compute a model.

    Attributes:
        name: "torch" (the family's own inference class), "cuda_graph" (torch, replayed from a
            recording on a GPU), "onnxruntime" or "tensorrt".
        device: Where.
        precision: "fp32", "fp16", "bf16" or "int8".
        model: Name of the model.
        cache_dir: Where exported graphs and built engines are kept.
        build: Export and build what is not there.
    """

    name: str
    device: torch.device
    precision: str
    model: str
    cache_dir: Path
    build: bool = False

    @property
    def onnx_folder(self) -> Path:
        """Where the model's exported graphs are kept."""
        return self.cache_dir / "onnx" / self.model

    def check_precision(self, *known: str) -> None:
        """Refuse a precision that a family's own inference class does not have.

        Raises:
            EngineUnavailable: It is none of the known.
        """
        if self.precision not in known:
            raise EngineUnavailable(f"torch computes it in {' or '.join(known)} on this device")

    def open(self, graph: Graph) -> Engine:
        """Make the engine of a graph.

        Raises:
            EngineUnavailable: It cannot be had here.
            ValueError: This back end does not know the precision.
        """
        if self.name == "cuda_graph":
            from tracker_ros.engines.cuda_graph_engine import CudaGraphEngine

            engine = CudaGraphEngine(graph, self.precision, self.device)
            if self.precision == "fp16" and graph.spec.half:
                self._compare(engine, graph)
            return engine
        if self.name == "onnxruntime":
            from tracker_ros.engines import onnxruntime_engine

            try:
                if self.build:
                    # Built engines beside it are refused in a folder that others may enter.
                    self.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                return onnxruntime_engine.open_engine(
                    graph, self.precision, self.onnx_folder, build=self.build, device=self.device
                )
            except OSError as error:
                raise EngineUnavailable(
                    f"exported graphs cannot be kept in {self.cache_dir} ({error}); make it "
                    "writable, or give another engine_cache_dir"
                ) from error
        if self.name == "tensorrt":
            from tracker_ros.engines import tensorrt_engine

            return tensorrt_engine.open_engine(
                graph,
                self.precision,
                self.cache_dir,
                model=self.model,
                build=self.build,
                device=self.device,
            )
        raise EngineUnavailable(f"back end {self.name!r} computes no graphs")

    def _compare(self, engine: Engine, graph: Graph) -> None:
        """Hold half precision to the gate that built engines pass, beside torch on this device.

        That takes a moment where a CPU would take seconds, and a tracker may be waiting.
        """
        from tracker_ros.engines import gate
        from tracker_ros.engines.torch_engine import TorchEngine

        reference = TorchEngine(graph, "fp32", self.device)
        # An example has one box to compare, or else thousands of numbers.
        crops = gate.CROPS if graph.boxes else 1
        problems = gate.examine(engine, graph, engine.precision, crops, reference).problems
        if problems:
            raise EngineUnavailable(
                f"graph {graph.spec.name!r} in {engine.precision} does not equal torch: "
                f"{'; '.join(problems)}; use precision='fp32'"
            )


def collect_graphs(make: Callable[[Backend], object]) -> list[Graph]:
    """The graphs that a model opens when it is made."""
    collector = _Collector("", torch.device("cpu"), "fp32", "", Path())
    make(collector)
    return collector.graphs


@dataclass(frozen=True)
class _Collector(Backend):
    """Keeps graphs and opens nothing."""

    graphs: list[Graph] = field(default_factory=list)

    def open(self, graph: Graph) -> Engine:
        self.graphs.append(graph)
        return _Closed(graph.spec)


class _Closed(Engine):
    backend, device, precision = "none", "cpu", "fp32"

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        raise RuntimeError(f"graph {self.spec.name!r} was not opened")
