# SPDX-License-Identifier: Apache-2.0
"""What becomes of a graph when TensorRT works, refuses, computes wrongly or breaks down."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_tensorrt import FakeTensorRT
from tensorrt_workshop import ToyNetwork, Workshop, toy_example

from tracker_ros.cli.main import main
from tracker_ros.engines import tensorrt_engine, torch_engine
from tracker_ros.engines.graph import EngineUnavailable, Graph, GraphSpec, TensorSpec
from tracker_ros.engines.onnx_engine import exported_graph

CPU = torch.device("cpu")
RIGHT, WRONG = 0.0, 0.5


@pytest.fixture(scope="module")
def graph() -> Graph:
    spec = GraphSpec(
        "track",
        {"picture": TensorSpec((1, 3, 2, 2)), "offset": TensorSpec((1, 5), "int64")},
        {"box": TensorSpec((1, 4)), "score": TensorSpec((1, 1))},
    )
    network = ToyNetwork().eval()
    return Graph(spec, network, toy_example, lambda out: (out["box"], out["score"][:, 0]))


@pytest.fixture(scope="module")
def exported(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph as ONNX in every precision that is tried."""
    folder = tmp_path_factory.mktemp("exported")
    for precision in tensorrt_engine.ATTEMPTS["fp16"]:
        exported_graph(graph, precision, folder, model="toy", build=True)
    return folder


@pytest.fixture
def workshop(graph: Graph, exported: Path, tmp_path: Path) -> Workshop:
    folder = tmp_path / "engines"
    shutil.copytree(exported, folder)
    folder.chmod(0o700)
    return Workshop(graph, folder)


@pytest.fixture
def messages() -> Iterator[Callable[[int], list[str]]]:
    """What is logged, of at least a level."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    loggers = [logging.getLogger(m.__name__) for m in (tensorrt_engine, torch_engine)]
    for logger in loggers:
        logger.addHandler(handler)
    yield lambda level: [r.getMessage() for r in records if r.levelno >= level]
    for logger in loggers:
        logger.removeHandler(handler)


def test_tensorrt_must_be_there_and_new_enough(
    monkeypatch: pytest.MonkeyPatch, doubling: Graph, tmp_path: Path
) -> None:
    def attempt() -> None:
        tensorrt_engine.open_engine(
            doubling, "fp16", tmp_path / "e", model="toy", build=True, device=CPU
        )

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
        tensorrt_engine.load_tensorrt()


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
    monkeypatch.setattr(tensorrt_engine, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tensorrt_engine.driver_version() == version


def test_the_key_names_all_that_a_plan_depends_on(
    monkeypatch: pytest.MonkeyPatch, doubling: Graph
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Orin")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(tensorrt_engine, "driver_version", lambda: "540.4.0")
    key = tensorrt_engine.engine_key(
        FakeTensorRT(doubling), "toy track", "0" * 64, "fp16", torch.device("cuda", 0)
    )
    assert key.subject == "toy track"
    assert key.parts == {
        "onnx": "0" * 64,
        "precision": "fp16",
        "options": tensorrt_engine.OPTIONS,
        "tensorrt": "tensorrt 10.3.0",
        "driver": "540.4.0",
        "cuda": "12.6",
        "gpu": "Orin",
        "capability": "8.7",
    }


def test_an_engine_is_built_once_and_then_found(workshop: Workshop) -> None:
    trt = FakeTensorRT(workshop.graph)
    first = workshop.open(trt)
    assert (first.backend, first.device, first.precision) == ("tensorrt", "cpu", "fp16")
    assert workshop.is_right(first)
    second = workshop.open(trt, build=False)
    assert trt.built == 1
    assert workshop.is_right(second)
    assert first.runtime_info == second.runtime_info
    assert second.runtime_info == {
        "backend": "tensorrt",
        "device": "cpu",
        "precision": "fp16",
        "parity": "16 crops: box IoU median 1.0000, least 1.0000, scores within 0.0000",
    }


def test_outputs_are_of_the_type_that_the_spec_says(workshop: Workshop) -> None:
    engine = workshop.open(FakeTensorRT(workshop.graph, faults={"half"}))
    found = engine(**workshop.graph.example(0))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert engine.backend == "tensorrt"


def test_an_engine_made_in_inference_mode_runs_outside_of_it(workshop: Workshop) -> None:
    with torch.inference_mode():
        engine = workshop(RIGHT)
    assert workshop.is_right(engine)
    assert engine.backend == "tensorrt"


def test_a_call_with_other_tensors_is_refused(workshop: Workshop) -> None:
    engine = workshop(RIGHT)
    with pytest.raises(ValueError, match="'picture' is float32"):
        engine(**{**workshop.graph.example(0), "picture": torch.zeros(1, 3, 4, 4)})
    assert engine.backend == "tensorrt"


@pytest.mark.parametrize(
    ("version", "typed", "flags"),
    [("10.3.0", True, 2), ("10.16.1.11", True, 2), ("11.4", False, 0)],
)
def test_networks_are_strongly_typed_in_every_version(
    workshop: Workshop, version: str, typed: bool, flags: int
) -> None:
    trt = FakeTensorRT(workshop.graph, version=version, typed=typed)
    assert workshop.open(trt).backend == "tensorrt"
    assert trt.flags == [flags]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no builder", "returned no builder"),
        ("parse", "cannot parse graph 'track': In node 7: operator Wobble is unknown"),
        ("no plan", "returned no plan for graph 'track': could not find any implementation"),
        ("no engine", "cannot load the plan of graph 'track': the plan was made by version 10.2"),
        ("no context", "has no memory for the plan of graph 'track': out of memory"),
        ("no address", "refuses the buffer of 'picture'"),
        ("other tensors", "loaded another plan"),
    ],
)
def test_what_tensorrt_refuses_is_computed_by_torch(
    workshop: Workshop, messages: Callable[[int], list[str]], fault: str, reason: str
) -> None:
    engine = workshop.open(FakeTensorRT(workshop.graph, faults={fault}))
    assert (engine.backend, engine.precision) == ("torch", "fp32")
    assert workshop.is_right(engine)
    assert reason in engine.runtime_info["fallback"]
    (line,) = messages(logging.ERROR)
    assert line.startswith("toy track is computed by torch fp32: ")
    assert reason in line
    assert workshop.plans == []


def test_a_failed_parity_check_is_remembered_and_float32_tried(
    workshop: Workshop, messages: Callable[[int], list[str]]
) -> None:
    engine = workshop(WRONG, WRONG, RIGHT)
    assert (engine.backend, engine.precision) == ("tensorrt", "fp32")
    assert workshop.is_right(engine)
    refused = messages(logging.WARNING)
    assert [line.split(" is not used")[0] for line in refused] == [
        "toy track: TensorRT in fp16",
        "toy track: TensorRT in fp16-mixed",
    ]
    assert all("median box IoU 0." in line for line in refused), refused
    assert len(workshop.plans) == 1
    trt = FakeTensorRT(workshop.graph, errors=[WRONG])
    again = workshop.open(trt, build=False)
    assert (again.backend, again.precision) == ("tensorrt", "fp32")
    assert trt.built == 0


def test_float32_islands_may_be_enough(workshop: Workshop) -> None:
    engine = workshop(WRONG, RIGHT)
    assert (engine.backend, engine.precision) == ("tensorrt", "fp16-mixed")


@pytest.mark.parametrize(("precision", "steps"), [("fp16", 3), ("fp32", 1)])
def test_torch_computes_where_no_plan_passes(
    workshop: Workshop, messages: Callable[[int], list[str]], precision: str, steps: int
) -> None:
    engine = workshop(*[WRONG] * steps, precision=precision)
    assert engine.backend == "torch"
    assert workshop.is_right(engine)
    assert len(messages(logging.WARNING)) == steps + 1
    assert "failed the parity check" in engine.runtime_info["fallback"]
    again = workshop(build=False, precision=precision)
    assert again.backend == "torch"
    assert "median box IoU" in again.runtime_info["fallback"]


def test_without_building_what_is_missing_is_refused(workshop: Workshop) -> None:
    trt = FakeTensorRT(workshop.graph)
    with pytest.raises(EngineUnavailable, match="toy track is not cached") as raised:
        workshop.open(trt, build=False)
    assert "tracker-ros export toy --backend tensorrt" in str(raised.value)
    assert trt.built == 0
    shutil.rmtree(workshop.folder / "onnx")
    with pytest.raises(EngineUnavailable, match="is not exported in fp16"):
        workshop.open(trt, build=False)


def test_a_plan_of_another_version_is_refused_or_built_again(workshop: Workshop) -> None:
    workshop.open(FakeTensorRT(workshop.graph, version="10.3.0"))
    newer = FakeTensorRT(workshop.graph, version="10.16.1")
    said = "tensorrt is tensorrt 10.16.1, was tensorrt 10.3.0"
    with pytest.raises(EngineUnavailable, match=said):
        workshop.open(newer, build=False)
    assert workshop.open(newer).backend == "tensorrt"
    assert newer.built == 1


@pytest.mark.parametrize("damage", ["truncated", "one byte", "open to others", "link"])
def test_a_plan_that_cannot_be_trusted_is_refused_or_built_again(
    workshop: Workshop, tmp_path: Path, damage: str
) -> None:
    workshop(RIGHT)
    (plan,) = workshop.plans
    content = bytearray(plan.read_bytes())
    if damage == "truncated":
        plan.write_bytes(content[:-1])
    elif damage == "one byte":
        content[-1] ^= 1
        plan.write_bytes(content)
    elif damage == "open to others":
        plan.chmod(0o666)
    else:
        plan.rename(tmp_path / "elsewhere")
        plan.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineUnavailable, match=r"\.plan is"):
        workshop(build=False)
    trt = FakeTensorRT(workshop.graph)
    assert workshop.open(trt).backend == "tensorrt"
    assert trt.built == 1
    assert workshop(build=False).backend == "tensorrt"


def test_a_cached_plan_that_no_longer_loads_is_refused_or_built_again(workshop: Workshop) -> None:
    workshop(RIGHT)
    unwilling = FakeTensorRT(workshop.graph, faults={"no engine"})
    with pytest.raises(EngineUnavailable, match="the cached engine does not run"):
        workshop.open(unwilling, build=False)
    assert workshop(build=False).backend == "tensorrt"


def test_a_cached_plan_is_tried_at_start(workshop: Workshop) -> None:
    workshop(RIGHT)
    changed = FakeTensorRT(workshop.graph, drift=WRONG)
    with pytest.raises(EngineUnavailable, match="fails its trial: median box IoU"):
        workshop.open(changed, build=False)
    assert workshop(build=False).backend == "tensorrt"


def test_an_engine_that_does_not_run_is_not_used(workshop: Workshop) -> None:
    engine = workshop.open(FakeTensorRT(workshop.graph, executions=5))
    assert engine.backend == "torch"
    assert "an illegal memory access" in engine.runtime_info["fallback"]
    assert workshop.plans == []


def test_a_breakdown_in_mid_stream_goes_over_to_torch(
    workshop: Workshop, messages: Callable[[int], list[str]]
) -> None:
    workshop(RIGHT)
    trt = FakeTensorRT(workshop.graph, executions=4)
    engine = workshop.open(trt)  # one execution when it is loaded, one for the trial
    assert [workshop.is_right(engine) for _ in range(2)] == [True, True]
    assert engine.backend == "tensorrt"
    assert messages(logging.ERROR) == []
    assert [workshop.is_right(engine) for _ in range(3)] == [True, True, True]
    assert (engine.backend, engine.precision) == ("torch", "fp32")
    (line,) = messages(logging.ERROR)
    assert line.startswith("graph 'track' is computed by torch fp32 from now on: tensorrt fp16")
    assert "an illegal memory access was encountered" in line
    assert "an illegal memory access" in engine.runtime_info["fallback"]
    assert trt.run == 5


def test_a_fault_on_the_gpu_is_met_within_the_call(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for torch.cuda: a GPU reports what failed when it is waited for."""
    done: list[str] = []

    class Stream:
        cuda_stream = 7

        def wait_stream(self, other: object) -> None:
            done.append("inputs are there")

        def synchronize(self) -> None:
            done.append("outputs are there")
            if done.count("outputs are there") == 2:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    @contextmanager
    def current(given: object) -> Iterator[None]:
        yield

    stream = Stream()
    trt = FakeTensorRT(workshop.graph)
    engine = workshop.open(trt)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *device: stream)
    monkeypatch.setattr(engine._engine, "_stream", stream)
    assert workshop.is_right(engine)
    assert trt.streams[-1] == 7
    assert engine.backend == "tensorrt"
    assert workshop.is_right(engine)
    assert engine.backend == "torch"
    assert "an illegal memory access" in engine.runtime_info["fallback"]
    assert done == ["inputs are there", "outputs are there"] * 2


def test_a_graph_that_may_not_be_halved_stays_in_float32(workshop: Workshop) -> None:
    whole = replace(workshop.graph, spec=replace(workshop.graph.spec, half=False))
    workshop.graph = whole
    engine = workshop(RIGHT)
    assert (engine.backend, engine.precision) == ("tensorrt", "fp32")


def test_a_full_disk_costs_the_cache_and_not_the_engine(
    workshop: Workshop, messages: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    engine = workshop(RIGHT)
    assert engine.backend == "tensorrt"
    (line,) = messages(logging.WARNING)
    assert "is built again at the next start: " in line
    assert "No space left on device" in line
    assert workshop.plans == []


@pytest.mark.parametrize(("wrong", "status"), [(0, 0), (3, 1)])
def test_export_tells_what_is_left_to_torch(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: int,
    status: int,
) -> None:
    monkeypatch.setattr("tracker_ros.registry.model_graphs", lambda *given: [workshop.graph])
    monkeypatch.setattr(
        tensorrt_engine,
        "open_engine",
        lambda graph, precision, *given, **options: workshop(*[WRONG] * wrong),
    )
    command = ["export", "toy", "--backend", "tensorrt", "--out", str(workshop.folder)]
    assert main(command) == status
    text = capsys.readouterr().out
    assert ("left to torch: TensorRT was refused: in fp16" in text) == bool(wrong)
    assert main([*command, "--json"]) == status
    (entry,) = json.loads(capsys.readouterr().out)["graphs"]
    assert entry["runtime_info"]["backend"] == ("torch" if wrong else "tensorrt")


@pytest.mark.gpu
def test_on_a_gpu_the_plan_is_replayed_as_a_cuda_graph(workshop: Workshop) -> None:
    device = torch.device("cuda", 0)
    trt = FakeTensorRT(workshop.graph, device="cuda")
    workshop.graph.module.to(device)
    try:
        engine = tensorrt_engine.TensorRTEngine(
            workshop.graph.spec, b"fake plan 0.0", "fp32", device, trt
        )
        run = trt.run
        for seed in range(3):
            inputs = workshop.graph.example(seed)
            found = engine(**inputs)
            wanted = workshop.graph.module(*(tensor.to(device) for tensor in inputs.values()))
            assert torch.allclose(found["box"], wanted[0], atol=1e-5)
        assert trt.run == run
        assert 0 not in trt.streams, "TensorRT waits at every call on the default stream"
    finally:
        workshop.graph.module.cpu()
