# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tracker_ros
from tracker_ros.registry import create_tracker, list_models, model_card, resolve_device


def test_names_are_sorted_and_each_has_a_card() -> None:
    names = list_models()
    assert names == sorted(names)
    assert {"ostrack_tiny", "ostrack_vitb_256_ce", "ostrack_vitb_384_ce"} <= set(names)
    for name in names:
        card = model_card(name)
        assert card.name == name
        assert card.summary
        assert card.licence
        assert card.paper.startswith("https://")


def test_unknown_model_gets_similar_names() -> None:
    with pytest.raises(ValueError, match="'ostrack_tinny' is unknown; did you mean ostrack_tiny"):
        create_tracker("ostrack_tinny")
    with pytest.raises(ValueError, match="'zzz' is unknown; known: .*ostrack_vitb_384_ce"):
        model_card("zzz")


def test_official_model_without_weights_says_how_to_get_them() -> None:
    with pytest.raises(ValueError, match="tracker-ros convert-checkpoint") as error:
        create_tracker("ostrack_vitb_256_ce")
    assert "https://github.com/botaoye/OSTrack" in str(error.value)
    assert "weights=" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backend": "onnx"},
            "backend 'onnx' is not available .*expected auto or torch or onnxruntime",
        ),
        ({"precision": "fp8"}, "precision 'fp8' is not available .*expected auto or fp32 or fp16"),
        ({"device": "tpu"}, "device 'tpu' is unknown; expected auto, cpu, cuda"),
    ],
)
def test_unknown_arguments_are_named(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_tracker("ostrack_tiny", **arguments)


def test_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        create_tracker("ostrack_tiny", weights=tmp_path / "none.safetensors")


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert resolve_device("auto").type == ("cuda" if count else "cpu")
    with pytest.raises(ValueError, match=rf"sees {count} CUDA device\(s\)"):
        resolve_device(f"cuda:{count}")


def test_listing_models_loads_no_network() -> None:
    script = (
        "import sys; from tracker_ros import list_models, model_card; "
        "[model_card(n) for n in list_models()]; "
        "print([m for m in ('torch', 'cv2', 'rclpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_public_names_can_be_listed_and_unknown_ones_are_errors() -> None:
    assert set(tracker_ros.__all__) <= set(dir(tracker_ros))
    for name in tracker_ros.__all__:
        assert getattr(tracker_ros, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'create_robot'"):
        _ = tracker_ros.create_robot


def test_a_user_without_a_home_can_track(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for backend in ("torch", "onnxruntime"):
        tracker = create_tracker("ostrack_tiny", device="cpu", backend=backend)
        assert tracker.runtime_info["backend"] == backend
    with pytest.raises(ValueError, match="set HOME or XDG_CACHE_HOME, or give engine_cache"):
        create_tracker("ostrack_tiny", device="cpu", backend="onnxruntime", precision="fp16")
