# SPDX-License-Identifier: Apache-2.0
"""ViT-B of the official width, with random weights and fewer blocks: graphs equal torch's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tracker_ros.engines import parity_check
from tracker_ros.engines.graph import Graph
from tracker_ros.engines.onnx_engine import OnnxRuntimeEngine, exported_graph
from tracker_ros.models.one_stream.config import GRM_VITB_256, OSTRACK_VITB_256_CE
from tracker_ros.models.one_stream.export import grm_graphs as grm_graphs
from tracker_ros.models.one_stream.export import ostrack_graphs as ostrack_graphs
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork


def ostrack() -> Graph:
    return ostrack_graphs(
        OSTrackNetwork(replace(OSTRACK_VITB_256_CE, depth=3, ce_layers=(0, 1, 2))).eval()
    )[1]


def grm() -> Graph:
    return grm_graphs(GRMNetwork(replace(GRM_VITB_256, depth=2)).eval(), threshold=0.4)[1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [ostrack, grm])
def test_vit_b_equals_torch(make: object, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = make()  # type: ignore[operator]
    path = exported_graph(graph, "fp32", tmp_path, model="m", build=True)
    engine = OnnxRuntimeEngine(graph.spec, path, "fp32", torch.device("cpu"))
    report = parity_check.examine(engine, graph, "fp32", crops=2)
    assert report.passed, report.problems
    assert max(figures.relative_error for figures in report.outputs.values()) < 1e-4
    operators = json.loads(path.with_suffix(".json").read_text())["info"]["operators"]
    # Which candidates stay is data, how many is not: one TopK for each elimination.
    assert operators.get("TopK", 0) == (3 if make is ostrack else 0)
    assert "NonZero" not in operators
