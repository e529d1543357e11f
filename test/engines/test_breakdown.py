# SPDX-License-Identifier: Apache-2.0
"""A tracker whose TensorRT breaks down while it follows something."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fake_tensorrt import FakeTensorRT

from tracker_ros import create_tracker
from tracker_ros.engines.graph import Engine, Graph
from tracker_ros.engines.onnx_engine import exported_graph
from tracker_ros.engines.tensorrt_engine import TensorRTOpener
from tracker_ros.models.one_stream.config import OSTRACK_CONFIGS
from tracker_ros.models.one_stream.on_engines import OneStreamOnEngines
from tracker_ros.models.one_stream.tracker import OneStreamTracker
from tracker_ros.synthetic.scene_video import synthetic_video

FRAMES, GOOD_FRAMES = 6, 3
CPU = torch.device("cpu")


@pytest.fixture
def cache(ostrack_graphs: list[Graph], shared_engines: Path, tmp_path: Path) -> Path:
    """A folder of engines with the model's graphs as ONNX."""
    for graph in ostrack_graphs:
        path = exported_graph(graph, "fp32", shared_engines, model="ostrack_tiny", build=True)
        folder = tmp_path / "engines" / "onnx"
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (".onnx", ".safetensors", ".json"):
            shutil.copy(path.with_suffix(suffix), folder)
    folder.parent.chmod(0o700)
    return folder.parent


def test_the_target_is_kept(ostrack_graphs: list[Graph], cache: Path) -> None:
    broken: list[FakeTensorRT] = []

    def opened(graph: Graph) -> Engine:
        trt = FakeTensorRT(graph)
        engine = TensorRTOpener(trt, cache, "ostrack_tiny", True, CPU).open(graph, "fp32")
        if graph.spec.name == "track_128px":
            trt.executions = trt.run + GOOD_FRAMES
            broken.append(trt)
        return engine

    config = OSTRACK_CONFIGS["ostrack_tiny"]
    tracker = OneStreamTracker(OneStreamOnEngines(config, ostrack_graphs, opened))
    plain = create_tracker("ostrack_tiny", device="cpu", backend="torch", precision="fp32")
    first, *later = synthetic_video(seed=3, frames=FRAMES + 1, size=(320, 240))
    with torch.inference_mode():
        tracker.initialize(first.image, first.box)
        plain.initialize(first.image, first.box)
        backends = []
        for frame in later:
            found, wanted = tracker.track(frame.image), plain.track(frame.image)
            assert found.box == pytest.approx(wanted.box, abs=0.05)
            assert found.score == pytest.approx(wanted.score, abs=1e-3)
            backends.append(tracker.runtime_info["backend"])
    good = 1 + GOOD_FRAMES  # the first is searched in another graph
    assert backends == ["tensorrt"] * good + ["torch"] * (FRAMES - good)
    facts = tracker.runtime_info
    assert "an illegal memory access was encountered" in facts["fallback"]
    assert facts["parity template"].startswith("16 crops: cosine at least 1.0")
    assert broken[0].run == broken[0].executions + 1
