# SPDX-License-Identifier: Apache-2.0
"""Graphs that are part of the package, beside torch, and without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import EASY

from tracker_ros import create_tracker, list_models, model_card
from tracker_ros.engines.embedded import FACTORS, MANIFEST, EmbeddedModel
from tracker_ros.engines.graph import EngineUnavailable
from tracker_ros.geometry import iou
from tracker_ros.model_cards import embedded_file, embedded_graphs
from tracker_ros.registry import model_graphs
from tracker_ros.synthetic.scene_video import synthetic_video

MODELS = [name for name in list_models() if model_card(name).weights]
MOST_BYTES = 12_000_000
WITHOUT_TORCH = Path(__file__).parents[1] / "without_torch"


def stem(model: str) -> str:
    return Path(model_card(model).weights or "").stem


@pytest.mark.parametrize("model", MODELS)
def test_graphs_are_those_of_the_weights_and_the_code(model: str) -> None:
    """If this fails, run `python -m tools.embed_graphs`."""
    folder = embedded_graphs(stem(model))
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["weights"] == model_card(model).sha256
    files = {f"{name}.onnx" for name in manifest["graphs"]}
    assert {path.name for path in folder.iterdir()} == files | {MANIFEST, FACTORS}
    assert max(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    embedded = EmbeddedModel(folder, embedded_file(f"{stem(model)}.safetensors"))
    for graph in model_graphs(model):
        if model_card(model).family == "mast":  # one graph for all sizes
            found = embedded.graph("features", graph.spec.settings).spec
            assert (list(found.inputs), list(found.outputs)) == (["image"], ["features"])
            continue
        found = embedded.graph(graph.spec.name, graph.spec.settings).spec
        assert replace(found, half=graph.spec.half) == graph.spec


@pytest.mark.parametrize(
    "model", ["ostrack_tiny", "grm_tiny", "trdimp_tiny", "trsiam_tiny", "mast_tiny"]
)
def test_a_run_finds_what_torch_finds(model: str) -> None:
    frames = list(synthetic_video(seed=3, frames=9, size=(320, 240), config=EASY))
    found = {}
    for backend in ("torch", "auto"):
        tracker = create_tracker(model, device="cpu", backend=backend)
        tracker.initialize(frames[0].image, frames[0].box)
        found[backend] = [tracker.track(frame.image) for frame in frames[1:]]
    assert tracker.runtime_info["backend"] == "onnxruntime"
    boxes = {name: np.array([result.box for result in run]) for name, run in found.items()}
    assert np.abs(boxes["torch"] - boxes["auto"]).max() < 5e-3
    assert np.abs(boxes["torch"] - [frame.box for frame in frames[1:]]).mean() < 15
    for plain, other in zip(found["torch"], found["auto"], strict=True):
        assert abs(plain.score - other.score) < 1e-4
        assert (plain.mask is None) == (other.mask is None)


@pytest.mark.parametrize("model", ["ostrack_tiny", "grm_tiny"])
def test_a_run_in_int8_finds_nearly_the_same(model: str) -> None:
    frames = list(synthetic_video(seed=3, frames=9, size=(320, 240), config=EASY))
    exact, rounded = (create_tracker(model, "cpu", precision=each) for each in ("fp32", "int8"))
    assert rounded.runtime_info == exact.runtime_info | {"precision": "int8"}
    for tracker in (exact, rounded):
        tracker.initialize(frames[0].image, frames[0].box)
    differences = []
    for frame in frames[1:]:
        one, other = exact.track(frame.image), rounded.track(frame.image)
        assert iou(one.box, other.box) > 0.9
        assert abs(one.score - other.score) < 0.04
        differences.append(abs(one.score - other.score))
    assert max(differences) > 1e-5, "nothing was rounded"


def test_a_model_without_int8_says_what_it_runs_in(logged: list[str], tmp_path: Path) -> None:
    tracker = create_tracker("trdimp_tiny", "cpu", precision="int8", engine_cache_dir=tmp_path)
    facts = tracker.runtime_info
    assert (facts["backend"], facts["precision"]) == ("onnxruntime", "fp32")
    assert any("runs in fp32, not in int8" in line for line in logged)
    with pytest.raises(ValueError, match="'int8' is not available .*fp32"):
        create_tracker(
            "trdimp_tiny",
            "cpu",
            backend="onnxruntime",
            precision="int8",
            engine_cache_dir=tmp_path,
        )
    assert not list(tmp_path.rglob("*.onnx")), "it exported first"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Graphs and weights that may be damaged."""
    shutil.copytree(embedded_graphs("ostrack_tiny"), tmp_path / "graphs")
    shutil.copy(embedded_file("ostrack_tiny.safetensors"), tmp_path / "weights")
    return tmp_path


def opened(folder: Path) -> None:
    model = EmbeddedModel(folder / "graphs", folder / "weights")
    settings = json.loads((folder / "graphs" / MANIFEST).read_text())["graphs"]["track"][
        "settings"
    ]
    model.open(model.graph("track", settings))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, alter, Path.unlink])
@pytest.mark.parametrize("name", ["graphs/track.onnx", f"graphs/{FACTORS}", "weights"])
def test_damaged_files_are_refused_by_name(
    copy: Path, damage: Callable[[Path], None], name: str
) -> None:
    opened(copy)
    damage(copy / name)
    with pytest.raises(ValueError, match=f"{Path(name).name} .*install the package again"):
        opened(copy)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"graphs"'])
def test_a_manifest_that_lists_no_graphs_is_refused(copy: Path, content: str | None) -> None:
    manifest = copy / "graphs" / MANIFEST
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(ValueError, match=f"{MANIFEST} cannot be read.*install the package again"):
        EmbeddedModel(copy / "graphs", copy / "weights")


def test_graphs_with_other_settings_are_refused(copy: Path) -> None:
    model = EmbeddedModel(copy / "graphs", copy / "weights")
    with pytest.raises(EngineUnavailable, match="'track' is made for .*pip install torch"):
        model.graph("track", "other settings")
    with pytest.raises(EngineUnavailable, match="no graph 'another'"):
        model.graph("another", "")


def test_a_threshold_that_is_not_embedded_is_left_to_torch() -> None:
    tracker = create_tracker("grm_tiny", device="cpu", threshold=0.4)
    assert tracker.runtime_info["backend"] == "torch"


RUN = """
import sys
import numpy as np
from tracker_ros import create_tracker
from tracker_ros.tracker import example_image
(first, box), (later, _) = (example_image(120, 160, 0, moved=m) for m in ((0, 0), (4, 2)))
for model in sys.argv[1:]:
    tracker = create_tracker(model)
    tracker.warm_up()
    tracker.initialize(first, box)
    others = [tracker.fork()]
    others[0].initialize(first, box)
    results = tracker.track_batch(others, later)
    assert tracker.runtime_info["backend"] == "onnxruntime"
    print(model, *(value for result in results for value in result.box))
"""


def without_torch(
    *command: str, onnxruntime: bool = True, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run Python where torch, and if so wanted ONNX Runtime, cannot be imported.

    Settings are added to the environment.
    """
    refused = "torch" if onnxruntime else "torch onnxruntime"
    environment = {**os.environ, "REFUSED_PACKAGES": refused, **settings}
    path = [str(WITHOUT_TORCH), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


def test_every_embedded_model_tracks_without_torch() -> None:
    done = without_torch("-c", RUN, *MODELS)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == MODELS
    assert all(len(line) == 9 for line in lines)


def test_the_command_line_tracks_without_torch(tmp_path: Path) -> None:
    import cv2

    from tracker_ros.tracker import example_image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        image, box = example_image(120, 160, 0, moved=(2 * index, index))
        cv2.imwrite(str(pictures / f"{index}.png"), image[..., ::-1])
    numbers = [str(value) for value in example_image(120, 160, 0)[1]]
    out = tmp_path / "out.mp4"
    program = ("-m", "tracker_ros.cli.main")
    done = without_torch(*program, "track", str(pictures), "--box", *numbers, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(out.with_suffix(".json").read_text())["frames_tracked"] == 3
    failed = without_torch(*program, "export", "ostrack_tiny")
    assert failed.returncode == 2
    assert "pip install torch" in failed.stderr.splitlines()[-1]


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    home = str(tmp_path)
    # Where CI is set, it reports nothing by itself.
    done = without_torch("-c", RUN, "ostrack_tiny", HOME=home, TMPDIR=home, CI="")
    assert done.returncode == 0, done.stderr
    assert not [path.name for path in tmp_path.rglob("*") if path.is_file()]


def test_without_either_one_line_names_both() -> None:
    done = without_torch("-c", RUN, "ostrack_tiny", onnxruntime=False)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("ValueError: ostrack_tiny ")
    assert "pip install torch" in line
    assert "pip install onnxruntime" in line
