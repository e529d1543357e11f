# SPDX-License-Identifier: Apache-2.0
"""Graphs of small networks, exported once for all tests."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tracker_ros import registry
from tracker_ros.engines import select_backend, torch_engine
from tracker_ros.engines.graph import Graph, GraphSpec, TensorSpec
from tracker_ros.engines.onnx_engine import OnnxRuntimeEngine, open_engine
from tracker_ros.models.one_stream import on_engines as one_stream_engines

CPU = torch.device("cpu")
sys.path.insert(0, str(Path(__file__).parent))  # for the stand-ins beside the tests


@pytest.fixture(scope="session")
def ostrack_graphs() -> list[Graph]:
    """Of the embedded model."""
    from tracker_ros.registry import model_graphs

    return model_graphs("ostrack_tiny")


@pytest.fixture(scope="session")
def grm_graphs() -> list[Graph]:
    """Random weights; either category has search tokens, and the score map has a clear peak."""
    from tracker_ros.models.one_stream.config import GRM_TINY
    from tracker_ros.models.one_stream.export import grm_graphs
    from tracker_ros.models.one_stream.grm import DividingBlock, GRMNetwork

    torch.manual_seed(0)
    network = GRMNetwork(replace(GRM_TINY, depth=2)).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, DividingBlock):
                for layer in (0, 2, 4):
                    nn.init.normal_(module.attn.divide_predict[layer].weight, std=0.5)
        network.box_head.conv5_ctr.weight *= 40
    return grm_graphs(network, threshold=0.45)


@pytest.fixture(scope="session")
def mast_graphs() -> list[Graph]:
    """Random weights, an odd size of image, norms that do something."""
    from tracker_ros.models.mast.config import MAST_TINY
    from tracker_ros.models.mast.export import graphs
    from tracker_ros.models.mast.network import MASTNetwork

    torch.manual_seed(0)
    network = MASTNetwork(MAST_TINY).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return graphs(network, 61, 82)


@pytest.fixture(scope="session")
def trdimp_graphs() -> list[Graph]:
    """Of the embedded model."""
    from tracker_ros.registry import model_graphs

    return model_graphs("trdimp_tiny")


@pytest.fixture(scope="session")
def model_of(ostrack_graphs: list[Graph], trdimp_graphs: list[Graph]) -> Callable[[Graph], str]:
    """The name under which a graph is exported, so that all tests of a run find it."""
    embedded = {"ostrack_tiny": ostrack_graphs, "trdimp_tiny": trdimp_graphs}
    names = {id(graph.module): name for name, graphs in embedded.items() for graph in graphs}
    return lambda graph: names.get(id(graph.module), "random")


@pytest.fixture(scope="session")
def open_onnx(
    shared_engines: Path, model_of: Callable[[Graph], str]
) -> Callable[[Graph, str], OnnxRuntimeEngine]:
    """Export a graph unless another test has, and open it."""

    def open_graph(graph: Graph, precision: str) -> OnnxRuntimeEngine:
        model = model_of(graph)
        engine = open_engine(graph, precision, shared_engines, model=model, build=True, device=CPU)
        assert isinstance(engine, OnnxRuntimeEngine)
        return engine

    return open_graph


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What engines and their users log, whatever loggers a plug-in of pytest has put in."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    modules = (registry, select_backend, torch_engine, one_stream_engines)
    loggers = [logging.getLogger(module.__name__) for module in modules]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield messages
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


class Doubling(nn.Module):
    """Twice the input, plus a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, values: Tensor) -> tuple[Tensor]:
        return (2 * values + self.weight,)


@pytest.fixture
def doubling() -> Graph:
    """A graph that exports in a moment."""
    spec = GraphSpec("double", {"values": TensorSpec((3,))}, {"sums": TensorSpec((3,))})
    return Graph(
        spec, Doubling(), lambda seed: {"values": torch.arange(3, dtype=torch.float32) + seed}
    )
