# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT is taken, and what is known of the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from fake_tensorrt import FakeTensorRT

from tracker_ros.engines import tensorrt_build
from tracker_ros.engines.graph import EngineUnavailable, Graph
from tracker_ros.engines.tensorrt_engine import open_engine

CPU = torch.device("cpu")


def test_tensorrt_must_be_there_and_new_enough(
    monkeypatch: pytest.MonkeyPatch, doubling: Graph, tmp_path: Path
) -> None:
    def attempt() -> None:
        open_engine(doubling, "fp16", tmp_path / "e", model="toy", build=True, device=CPU)

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailable, match="there is no TensorRT.*pip install tensorrt"):
        attempt()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(doubling, version="10.2.9"))
    with pytest.raises(EngineUnavailable, match="10.2.9 is too old; expected at least 10.3"):
        attempt()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(doubling))
    with pytest.raises(EngineUnavailable, match="on GPUs only, and this is cpu"):
        attempt()


def test_a_package_that_does_not_load_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineUnavailable, match="libnvinfer.so.10: not found"):
        tensorrt_build.load_tensorrt()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.03  Tue Mar  3 01:12:48 UTC\n"
            "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2)\n",
            "580.159.03",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
            "540.4.0",
        ),
        ("nothing of the kind\n", "none"),
    ],
)
def test_the_driver_tells_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, version: str
) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(tensorrt_build, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tensorrt_build.driver_version() == version


def test_the_key_names_all_that_a_plan_depends_on(
    monkeypatch: pytest.MonkeyPatch, doubling: Graph
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Orin")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(tensorrt_build, "driver_version", lambda: "540.4.0")
    key = tensorrt_build.engine_key(
        FakeTensorRT(doubling), "toy track", "0" * 64, "fp16", torch.device("cuda", 0)
    )
    assert (key.graph, key.onnx, key.precision) == ("toy track", "0" * 64, "fp16")
    assert (key.tensorrt, key.driver, key.cuda) == ("tensorrt 10.3.0", "540.4.0", "12.6")
    assert (key.gpu, key.capability) == ("Orin", "8.7")
    assert "TF32" in key.options
