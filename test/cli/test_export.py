# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tracker_ros import create_tracker
from tracker_ros.checkpoints import sha256_of
from tracker_ros.cli.main import main
from tracker_ros.engines import onnx_engine, parity_check
from tracker_ros.synthetic.scene_video import synthetic_video
from tracker_ros.tracker import TrackResult


def test_a_model_is_exported_checked_and_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "ostrack_tiny", "--out", str(tmp_path), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["model"], output["folder"]) == ("ostrack_tiny", str(tmp_path))
    template, track = output["graphs"]
    assert (template["graph"], track["graph"]) == ("template", "track")
    assert track["precision"] == "fp32"
    assert track["check"]["crops"] == parity_check.CROPS
    assert max(o["relative_error"] for o in track["check"]["outputs"].values()) < 1e-4
    manifest = json.loads(Path(track["manifest"]).read_text())
    assert manifest["sha256"][".onnx"] == sha256_of(track["file"])
    tracker = create_tracker(
        "ostrack_tiny",
        device="cpu",
        backend="onnxruntime",
        engine_cache_dir=tmp_path,
        build_engine=False,
    )
    assert tracker.runtime_info["backend"] == "onnxruntime"


def test_a_graph_that_does_not_equal_torch_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = onnx_engine.OnnxRuntimeEngine.__call__

    def wrong(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
        return {name: t + 3e-4 * t.abs().max() for name, t in right(self, **tensors).items()}

    monkeypatch.setattr(onnx_engine.OnnxRuntimeEngine, "__call__", wrong)
    assert main(["export", "ostrack_tiny", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "graph 'template' in fp32 does not equal torch" in error
    assert "relative error 3.0e-04 > 0.0001" in error


def test_graphs_of_several_targets_are_exported_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", "ostrack_tiny", "--targets", "2", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    exported = json.loads(capsys.readouterr().out)["graphs"]
    assert [entry["graph"] for entry in exported] == ["template", "track", "track_2"]
    assert exported[2]["check"]["crops"] == parity_check.CROPS
    assert Path(exported[2]["file"]).is_file()
    first = create_tracker(
        "ostrack_tiny",
        device="cpu",
        backend="onnxruntime",
        engine_cache_dir=tmp_path,
        build_engine=False,
    )
    second = first.fork()
    (frame,) = synthetic_video(seed=0, frames=1, size=(160, 120))
    for tracker in (first, second):
        tracker.initialize(frame.image, frame.box)
    computed: list[str] = []
    run = onnx_engine.OnnxRuntimeEngine.__call__

    def watched(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
        computed.append(self.spec.name)
        return run(self, **tensors)

    monkeypatch.setattr(onnx_engine.OnnxRuntimeEngine, "__call__", watched)
    found = first.track_batch([second], frame.image)
    assert all(isinstance(result, TrackResult) for result in found)
    assert computed == ["track_2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ostrack_tinny"], "did you mean ostrack_tiny"),
        (["ostrack_vitb_256"], "has no embedded weights"),
        (["ostrack_tiny", "--option", "seed=1"], "has no option 'seed'"),
        (["ostrack_tiny", "--targets", "3"], "--targets is 3; expected 1 or 2, 4, 8"),
        (["mast_tiny", "--targets", "2"], "mast_tiny tracks one target after another"),
    ],
)
def test_what_cannot_be_exported_is_named(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *arguments, "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.onnx"))
