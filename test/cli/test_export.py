# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from tracker_ros import create_tracker
from tracker_ros.checkpoints import sha256_of
from tracker_ros.cli.main import main
from tracker_ros.engines import onnx_engine, parity_check
from tracker_ros.model_cards import embedded_file
from tracker_ros.synthetic.scene_video import synthetic_video
from tracker_ros.tracker import Tracker, TrackResult


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and description of the default model's graphs for one target and for two."""
    folder = tmp_path_factory.mktemp("exported")
    with redirect_stdout(io.StringIO()) as printed:
        arguments = ["--targets", "2", "--out", str(folder), "--json"]
        assert main(["export", "ostrack_tiny", *arguments]) == 0
    output = json.loads(printed.getvalue())
    assert (output["model"], output["folder"]) == ("ostrack_tiny", str(folder))
    return folder, output["graphs"]


def named(graphs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["graph"]: entry for entry in graphs}


def opened(folder: Path) -> Tracker:
    """On the exported graphs: weights that are named keep from the embedded ones."""
    return create_tracker(
        "ostrack_tiny",
        device="cpu",
        weights=embedded_file("ostrack_tiny.safetensors"),
        backend="onnxruntime",
        engine_cache_dir=folder,
        build_engine=False,
    )


def test_a_model_is_exported_checked_and_found(
    exported: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, graphs = exported
    track = named(graphs)["track"]
    assert track["precision"] == "fp32"
    assert track["check"]["crops"] == parity_check.CROPS
    assert max(o["relative_error"] for o in track["check"]["outputs"].values()) < 1e-4
    manifest = json.loads(Path(track["manifest"]).read_text())
    assert manifest["sha256"][".onnx"] == sha256_of(track["file"])
    assert opened(folder).runtime_info["backend"] == "onnxruntime"


def test_one_target_is_the_default(
    exported: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "ostrack_tiny", "--out", str(exported[0]), "--json"]) == 0
    graphs = json.loads(capsys.readouterr().out)["graphs"]
    assert [entry["graph"] for entry in graphs] == ["template", "track", "track_128px"]
    before = named(exported[1])
    assert all(entry["file"] == before[entry["graph"]]["file"] for entry in graphs)


def test_a_graph_that_does_not_equal_torch_is_an_error(
    exported: tuple[Path, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = onnx_engine.OnnxRuntimeEngine.__call__

    def wrong(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
        return {name: t + 3e-4 * t.abs().max() for name, t in right(self, **tensors).items()}

    monkeypatch.setattr(onnx_engine.OnnxRuntimeEngine, "__call__", wrong)
    assert main(["export", "ostrack_tiny", "--out", str(exported[0])]) == 2
    error = capsys.readouterr().err
    assert "graph 'template' in fp32 does not equal torch" in error
    assert "relative error 3.0e-04 > 0.0001" in error


def test_graphs_of_several_targets_are_exported_and_used(
    exported: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, graphs = exported
    several = named(graphs)["track_2"]
    assert "track_128px_2" in named(graphs)
    assert several["check"]["crops"] == parity_check.CROPS
    assert Path(several["file"]).is_file()
    first = opened(folder)
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
    assert set(computed) == {"track_2"}, "for its check, and for both targets at once"


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
