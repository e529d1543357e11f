# SPDX-License-Identifier: Apache-2.0
"""Which back end a model runs on, if that is left open.

On a GPU: an engine of TensorRT, if one was built and has passed its gate; else torch recorded as a
CUDA graph, in half precision, or in float32 if that fails the gate; else torch as it is. On a CPU:
torch or ONNX Runtime, whichever is measured to be faster when the model is loaded. Exporting for
that takes seconds, once; building for TensorRT takes minutes, and is left to `tracker-ros export`
and `backend="tensorrt"`.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from tracker_ros.engines import onnxruntime_engine
from tracker_ros.engines.backend import Backend
from tracker_ros.engines.graph import EngineUnavailable
from tracker_ros.synthetic.video import EASY, synthetic_video
from tracker_ros.tracker import Tracker

_LOG = logging.getLogger(__name__)
_SECONDS = 0.2
_FRAMES_A_TURN = 3
_FEWEST_FRAMES = 4
# What a change of back end must win at least: one measurement varies, and torch looks at several
# targets in one pass, for which an engine needs further graphs.
_GAIN = 1.2

CPU_PRECISIONS = ("fp32", "bf16", "int8")
GPU_PRECISIONS = ("fp32", "fp16")


def open_tracker(make: Callable[[Backend], Tracker], wanted: Backend) -> Tracker:
    """Make a tracker on what was asked for, or on the best there is.

    Args:
        make: Makes it; raises EngineUnavailable where a back end is not to be had.
        wanted: Its name and its precision may be "auto".

    Raises:
        ValueError: What was asked for cannot be had here; the message says what could help.
    """
    _check_precision(wanted)
    try:
        if wanted.name != "auto":
            return make(_named(wanted))
        if wanted.device.type == "cpu":
            return _faster_on_cpu(make, wanted)
        return _first_on_gpu(make, replace(wanted, build=False))
    except EngineUnavailable as error:
        raise ValueError(
            f"backend {wanted.name!r} with precision {wanted.precision!r} is not available for "
            f"{wanted.model} on {wanted.device}: {error}"
        ) from error


def _check_precision(wanted: Backend) -> None:
    known = CPU_PRECISIONS if wanted.device.type == "cpu" else GPU_PRECISIONS
    if wanted.name == "onnxruntime":
        known = ("fp32", "fp16")
    if wanted.precision not in ("auto", *known):
        raise ValueError(
            f"precision {wanted.precision!r} is not available for {wanted.model} with backend "
            f"{wanted.name!r} on {wanted.device}; expected auto, {' or '.join(known)}"
        )


def _named(wanted: Backend) -> Backend:
    """A back end that was asked for by name, with its precision filled in."""
    if wanted.name == "torch" and wanted.precision == "fp16":
        return replace(wanted, name="cuda_graph")
    default = "fp16" if wanted.name == "tensorrt" else "fp32"
    return replace(wanted, precision=default if wanted.precision == "auto" else wanted.precision)


def _first_on_gpu(make: Callable[[Backend], Tracker], wanted: Backend) -> Tracker:
    precision = "fp16" if wanted.precision == "auto" else wanted.precision
    choices = [("tensorrt", precision), ("cuda_graph", precision)]
    if wanted.precision == "auto":
        choices.append(("cuda_graph", "fp32"))
    for name, precision in choices:
        try:
            return make(replace(wanted, name=name, precision=precision))
        except EngineUnavailable as error:
            _LOG.info("%s does not run on %s in %s: %s", wanted.model, name, precision, error)
    if wanted.precision == "fp16":
        raise EngineUnavailable("neither TensorRT nor a CUDA graph computes it in fp16")
    return make(replace(wanted, name="torch", precision="fp32"))


def _faster_on_cpu(make: Callable[[Backend], Tracker], wanted: Backend) -> Tracker:
    precision = "fp32" if wanted.precision == "auto" else wanted.precision
    plain = make(replace(wanted, name="torch", precision=precision))
    if precision != "fp32":
        return plain
    try:
        exported = _exported(make, replace(wanted, name="onnxruntime", precision=precision))
    except EngineUnavailable as error:
        _LOG.info("%s runs on torch: %s", wanted.model, error)
        return plain
    seconds = measure({"torch": plain, "onnxruntime": exported})
    chosen = "torch" if seconds["torch"] <= _GAIN * seconds["onnxruntime"] else "onnxruntime"
    _LOG.info(
        "%s runs on %s: a frame took %.1f ms in torch and %.1f ms in ONNX Runtime",
        wanted.model,
        chosen,
        1e3 * seconds["torch"],
        1e3 * seconds["onnxruntime"],
    )
    return plain if chosen == "torch" else exported


def _exported(make: Callable[[Backend], Tracker], wanted: Backend) -> Tracker:
    """A tracker on exported graphs; they are exported first if need be and allowed.

    The tracker itself never exports: that would hold up images.
    """
    ready = replace(wanted, build=False)
    try:
        return make(ready)
    except EngineUnavailable:
        if not wanted.build or not onnxruntime_engine.can_export():
            raise
    _LOG.info(
        "exporting %s for ONNX Runtime, once, to try it beside torch; build_engine:=false "
        "leaves that out",
        wanted.model,
    )
    make(wanted)
    return make(ready)


def measure(trackers: dict[str, Tracker]) -> dict[str, float]:
    """Seconds that each tracker takes for a frame: the median of a moment, taken in turns."""
    # Copies share the network but not the target: nothing is followed afterwards.
    probes = {name: copy.copy(tracker) for name, tracker in trackers.items()}
    taken: dict[str, list[float]] = {name: [] for name in trackers}
    height, width = next(iter(trackers.values())).usual_size
    # Something that can be followed: a target that is not found may take less work.
    size = (max(width, 64), max(height, 64))
    (frame,) = synthetic_video(seed=0, frames=1, size=size, config=EASY)
    for probe in probes.values():
        probe.initialize(frame.image, frame.box)
        probe.track(frame.image)
    end = time.perf_counter() + _SECONDS * len(probes)
    while time.perf_counter() < end or len(min(taken.values(), key=len)) < _FEWEST_FRAMES:
        for name, probe in probes.items():
            for turn in range(_FRAMES_A_TURN):
                start = time.perf_counter()
                probe.track(frame.image)
                probe.learn()
                # While the first frame is computed, threads of the other one may still spin.
                if turn:
                    taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}
