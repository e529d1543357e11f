# SPDX-License-Identifier: Apache-2.0
"""Which back end a model runs on, with trackers that only take time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tracker_ros.engines.graph import EngineUnavailable
from tracker_ros.engines.select_backend import Backend, BackendUnavailable
from tracker_ros.engines.select_backend import open_tracker as open_timed
from tracker_ros.registry import create_tracker
from tracker_ros.tracker import Tracker, TrackResult

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Sleeper(Tracker):
    """Takes some time for each frame."""

    usual_size = (64, 80)

    def __init__(self, backend: Backend, seconds: float) -> None:
        self.backend, self.seconds = backend, seconds
        self.target: Sequence[float] | None = None

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        assert image.shape == (64, 80, 3)
        self.target = box

    def track(self, image: np.ndarray) -> TrackResult:
        assert self.target is not None
        time.sleep(self.seconds)
        return TrackResult((0, 0, 1, 1), 1.0, None, (0, 0, 1, 1))

    def warm_up(self) -> None:
        """Nothing to warm."""


def maker(**available: float) -> Callable[[Backend], Sleeper]:
    """Makes trackers on the named back ends, each with its seconds per frame.

    ONNX Runtime's need a file in the backend's folder, see `export`, unless that may be built.
    """

    def make(backend: Backend) -> Sleeper:
        if backend.name not in available:
            raise EngineUnavailable(f"{backend.name} is not there")
        ready = backend.build or (backend.cache_dir / "track.onnx").exists()
        if backend.name == "onnxruntime" and not ready:
            raise EngineUnavailable("it is not exported")
        return Sleeper(backend, available[backend.name])

    return make


def open_tracker(make: Callable[[Backend], Sleeper], backend: Backend) -> Tracker:
    return open_timed(make, backend, lambda them: {name: it.seconds for name, it in them.items()})


def wanted(
    folder: Path, name: str = "auto", precision: str = "auto", device: torch.device = CPU
) -> Backend:
    return Backend(name, device, precision, "model", folder, build=True)


@pytest.mark.parametrize(
    ("torch_seconds", "onnx_seconds", "chosen"),
    [(0.02, 0.004, "onnxruntime"), (0.004, 0.02, "torch"), (0.1, 0.1, "torch")],
)
def test_the_faster_one_is_taken_on_a_cpu(
    tmp_path: Path,
    logged: list[str],
    torch_seconds: float,
    onnx_seconds: float,
    chosen: str,
) -> None:
    make = maker(torch=torch_seconds, onnxruntime=onnx_seconds)
    (tmp_path / "track.onnx").touch()
    found = open_tracker(make, wanted(tmp_path))
    assert isinstance(found, Sleeper)
    assert (found.backend.name, found.backend.precision) == (chosen, "fp32")
    assert chosen == "torch" or not found.backend.build, "it would export between images"
    assert found.target is None, "a target is left from the measurement"
    (line,) = logged
    assert line.startswith(f"model runs on {chosen}: a frame took ")


def test_the_choice_is_the_same_on_every_start(tmp_path: Path) -> None:
    (tmp_path / "track.onnx").touch()
    for seconds in (0.1, 0.001):
        found = open_tracker(maker(torch=seconds, onnxruntime=0.01), wanted(tmp_path))
        assert isinstance(found, Sleeper)
        assert found.backend.name == "onnxruntime"


def test_auto_exports_nothing(tmp_path: Path, logged: list[str]) -> None:
    """Not even with leave: a starting node would export for half a minute."""
    found = open_tracker(maker(torch=0.02, onnxruntime=0.0), wanted(tmp_path))
    assert isinstance(found, Sleeper)
    assert found.backend.name == "torch"
    assert logged == ["model runs on torch: it is not exported"]


def test_an_export_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.touch()
    with pytest.raises(ValueError, match=r"cannot be kept in .* give another engine_cache_dir"):
        create_tracker(
            "ostrack_tiny",
            device="cpu",
            backend="onnxruntime",
            precision="fp16",
            engine_cache_dir=folder,
        )


def test_torch_stays_where_the_other_is_not_to_be_had(tmp_path: Path, logged: list[str]) -> None:
    found = open_tracker(maker(torch=0.0), wanted(tmp_path))
    assert isinstance(found, Sleeper)
    assert found.backend.name == "torch"
    assert logged == ["model runs on torch: onnxruntime is not there"]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("exported", [True, False])
def test_a_precision_that_torch_lacks_is_left_to_what_is_exported(
    tmp_path: Path, precision: str, exported: bool
) -> None:
    if exported:
        (tmp_path / "track.onnx").touch()
    there = maker(torch=0.01, onnxruntime=0.001)

    def make(backend: Backend) -> Sleeper:
        if backend.name == "torch" and backend.precision != "fp32":
            raise EngineUnavailable("this processor lacks it")
        return there(backend)

    if exported and precision == "int8":
        found = open_tracker(make, wanted(tmp_path, precision=precision))
        assert isinstance(found, Sleeper)
        assert (found.backend.name, found.backend.precision) == ("onnxruntime", "int8")
    else:
        with pytest.raises(BackendUnavailable, match="this processor lacks it"):
            open_tracker(make, wanted(tmp_path, precision=precision))


@pytest.mark.parametrize(
    ("available", "precision", "chosen"),
    [
        (("tensorrt", "cuda_graph", "torch"), "auto", ("tensorrt", "fp16")),
        (("cuda_graph", "torch"), "auto", ("cuda_graph", "fp16")),
        (("cuda_graph", "torch"), "fp32", ("cuda_graph", "fp32")),
        (("torch",), "auto", ("torch", "fp32")),
    ],
)
def test_the_first_that_is_there_is_taken_on_a_gpu(
    tmp_path: Path, available: tuple[str, ...], precision: str, chosen: tuple[str, str]
) -> None:
    make = maker(**dict.fromkeys(available, 0.0))
    found = open_tracker(make, wanted(tmp_path, precision=precision, device=GPU))
    assert isinstance(found, Sleeper)
    assert (found.backend.name, found.backend.precision) == chosen
    assert not found.backend.build


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_a_recording_in_single_precision_comes_before_none(tmp_path: Path, precision: str) -> None:
    there = maker(cuda_graph=0.0, torch=0.0)

    def make(backend: Backend) -> Sleeper:
        if backend.precision == "fp16":
            raise EngineUnavailable("it failed the check")
        return there(backend)

    given = wanted(tmp_path, precision=precision, device=GPU)
    if precision == "fp16":
        with pytest.raises(ValueError, match="neither TensorRT nor a CUDA graph computes it"):
            open_tracker(make, given)
    else:
        found = open_tracker(make, given)
        assert isinstance(found, Sleeper)
        assert (found.backend.name, found.backend.precision) == ("cuda_graph", "fp32")


@pytest.mark.parametrize(
    ("name", "precision", "device", "chosen"),
    [
        ("torch", "auto", CPU, ("torch", "fp32")),
        ("torch", "bf16", CPU, ("torch", "bf16")),
        ("torch", "auto", GPU, ("torch", "fp32")),
        ("torch", "fp16", GPU, ("cuda_graph", "fp16")),
        ("onnxruntime", "auto", CPU, ("onnxruntime", "fp32")),
        ("onnxruntime", "fp16", CPU, ("onnxruntime", "fp16")),
        ("onnxruntime", "int8", CPU, ("onnxruntime", "int8")),
        ("tensorrt", "auto", GPU, ("tensorrt", "fp16")),
        ("tensorrt", "fp32", GPU, ("tensorrt", "fp32")),
    ],
)
def test_what_is_asked_for_by_name_may_be_built(
    tmp_path: Path, name: str, precision: str, device: torch.device, chosen: tuple[str, str]
) -> None:
    make = maker(torch=0.0, cuda_graph=0.0, onnxruntime=0.0, tensorrt=0.0)
    found = open_tracker(make, wanted(tmp_path, name, precision, device))
    assert isinstance(found, Sleeper)
    assert (found.backend.name, found.backend.precision) == chosen
    assert found.backend.build


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("torch", "fp16", "precision 'fp16' is not .* expected auto, fp32 or bf16$"),
        ("torch", "int8", "precision 'int8' is not .* expected auto, fp32 or bf16$"),
        ("onnxruntime", "bf16", "precision 'bf16' is not .* expected auto, fp32 or fp16"),
        ("tensorrt", "auto", "backend 'tensorrt' .*not available for model on cpu: tensorrt is"),
    ],
)
def test_what_is_not_to_be_had_is_an_error(
    tmp_path: Path, name: str, precision: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_tracker(maker(torch=0.0), wanted(tmp_path, name, precision))


def test_what_is_missing_is_not_built_without_leave(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'template' is not exported in .*build_engine"):
        create_tracker(
            "ostrack_tiny",
            device="cpu",
            backend="onnxruntime",
            precision="fp16",
            engine_cache_dir=tmp_path,
            build_engine=False,
        )
    assert not list(tmp_path.rglob("*.onnx"))
