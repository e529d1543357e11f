# SPDX-License-Identifier: Apache-2.0
"""A toy graph, and what opens its engine with stand-ins for TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from fake_tensorrt import FakeTensorRT
from torch import Tensor, nn

from tracker_ros.engines.graph import Engine, Graph
from tracker_ros.engines.tensorrt_engine import TensorRTOpener

CPU = torch.device("cpu")


class ToyNetwork(nn.Module):
    """A picture to a box cxcywh and a score."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(0, 0.1, 60).view(5, 12))
            self.layer.bias.copy_(torch.tensor([0.5, 0.5, 0.3, 0.3, 0.2]))

    def forward(self, picture: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        values = self.layer(picture.flatten(1)) + offset.float()
        return values[:, :4], values[:, 4:].sigmoid()


def toy_example(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "picture": torch.rand(1, 3, 2, 2, generator=generator),
        "offset": torch.tensor([[0, 0, 0, 0, seed % 2]]),
    }


@dataclass
class Workshop:
    """Opens the graph's engine with one stand-in for TensorRT after another."""

    graph: Graph
    folder: Path

    def open(self, trt: FakeTensorRT, *, precision: str = "fp16", build: bool = True) -> Engine:
        return TensorRTOpener(trt, self.folder, "toy", build, CPU).open(self.graph, precision)

    def __call__(self, *errors: float, precision: str = "fp16", build: bool = True) -> Engine:
        trt = FakeTensorRT(self.graph, errors=list(errors))
        return self.open(trt, precision=precision, build=build)

    @property
    def plans(self) -> list[Path]:
        return sorted(self.folder.glob("*.plan"))

    def is_right(self, engine: Engine) -> bool:
        inputs = self.graph.example(99)
        found = engine(**inputs)
        wanted = self.graph.module(*inputs.values())
        return all(
            torch.allclose(found[name], value, atol=1e-5)
            for name, value in zip(self.graph.spec.outputs, wanted, strict=True)
        )
