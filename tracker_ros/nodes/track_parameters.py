# SPDX-License-Identifier: Apache-2.0
"""The parameters of the ``track`` node.

The same defaults stand in ``config/track.yaml`` and ``launch/track.launch.py``; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from tracker_ros import DEFAULT_MODEL
from tracker_ros.devices import is_device_name
from tracker_ros.model_options import parse_options
from tracker_ros.nodes.parameters import Change, ParameterError, ParameterSpec, Value
from tracker_ros.registry import BACKENDS, PRECISIONS

__all__ = ["TRACK_PARAMETERS", "check_scores"]


def _check_device(value: Value) -> str:
    if is_device_name(str(value)):
        return ""
    return "'auto', 'cpu', 'cuda' or 'cuda:N' with the number of a GPU"


def _check_options(value: Value) -> str:
    try:
        parse_options(str(value).split())
    except ValueError as error:
        return f"NAME=VALUE, several with spaces between them: {error}"
    return ""


def _check_transport(value: Value) -> str:
    if value == "raw":
        return ""
    return (
        "'raw', the only transport supported so far: publish raw images, for example with "
        "ros2 run image_transport republish"
    )


def check_scores(values: Mapping[str, Value]) -> None:
    """Refuse thresholds that contradict each other.

    Raises:
        ParameterError: ``score_lost`` exceeds ``score_found``.
    """
    found, lost = cast(float, values["score_found"]), cast(float, values["score_lost"])
    if lost > found:
        raise ParameterError(
            f"parameter score_lost is {lost:g}, wanted at most score_found ({found:g}): "
            "set both together"
        )


TRACK_PARAMETERS = (
    ParameterSpec(
        "model",
        DEFAULT_MODEL,
        "Name of the model; tracker-ros models lists them.",
        change=Change.UNCONFIGURED,
        check=lambda value: "" if value else "the name of a model, see tracker-ros models",
    ),
    ParameterSpec(
        "weights",
        "",
        "File with the model's weights (safetensors); empty takes those that come with it.",
        change=Change.UNCONFIGURED,
    ),
    ParameterSpec(
        "device",
        "auto",
        "Where the model runs: auto (a GPU if there is one), cpu, cuda or cuda:N.",
        change=Change.UNCONFIGURED,
        check=_check_device,
    ),
    ParameterSpec(
        "backend",
        "auto",
        "What runs the model: torch, onnxruntime or tensorrt; auto takes the fastest, on a CPU by "
        "a measurement while the model loads.",
        choices=BACKENDS,
        change=Change.UNCONFIGURED,
    ),
    ParameterSpec(
        "precision",
        "auto",
        "Number format that the model computes in: fp32; fp16 on GPUs and in ONNX Runtime; bf16 "
        "or int8 on CPUs, where the model's family has it; auto leaves it to the back end.",
        choices=PRECISIONS,
        change=Change.UNCONFIGURED,
    ),
    ParameterSpec(
        "engine_cache_dir",
        "",
        "Folder of exported graphs and built engines; empty takes one below the user's cache.",
        change=Change.UNCONFIGURED,
    ),
    ParameterSpec(
        "build_engine",
        True,
        "Whether what is missing may be exported, for seconds, and built for TensorRT, for "
        "minutes, while the model loads. auto exports for ONNX Runtime on a CPU, and builds "
        "nothing; with false it takes what is there, and a back end chosen by name refuses.",
        change=Change.UNCONFIGURED,
    ),
    ParameterSpec(
        "model_options",
        "",
        "Options of the model's family as NAME=VALUE, several with spaces between them: threshold "
        "for GRM; working_size, start_shape, reference_mode, behaviour, aligned, aspect for MAST; "
        "seed for TrDiMP and TrSiam.",
        change=Change.UNCONFIGURED,
        check=_check_options,
    ),
    ParameterSpec(
        "image_transport",
        "raw",
        "How images come in.",
        change=Change.UNCONFIGURED,
        check=_check_transport,
    ),
    ParameterSpec(
        "buffer_seconds",
        5.0,
        "How many seconds of images are kept, so that a box can start on the frame it was "
        "drawn on.",
        low=0.0,
        high=60.0,
    ),
    ParameterSpec(
        "buffer_megabytes",
        256.0,
        "How many megabytes these images may take.",
        low=1.0,
        high=65536.0,
    ),
    ParameterSpec(
        "score_found",
        0.45,
        "Score at and above which the target counts as found; for models that leave the judgement "
        "to the score (OSTrack, GRM).",
        low=0.0,
        high=1.0,
    ),
    ParameterSpec(
        "score_lost",
        0.35,
        "Score below which the target counts as not seen; at most score_found; for the same "
        "models.",
        low=0.0,
        high=1.0,
    ),
    ParameterSpec(
        "lost_after",
        1.0,
        "Seconds without seeing the target after which it is lost.",
        low=0.0,
        high=3600.0,
    ),
    ParameterSpec(
        "debug_rate",
        10.0,
        "Most images per second on debug/image and debug/score; 0 makes one for every frame.",
        low=0.0,
        high=1000.0,
    ),
    ParameterSpec(
        "debug_scale",
        1.0,
        "Size of debug/image relative to the camera's.",
        low=0.05,
        high=4.0,
    ),
    ParameterSpec(
        "debug_score_encoding",
        "rgb8",
        "What debug/score carries: colours (rgb8) or the response itself (32FC1).",
        choices=("rgb8", "32FC1"),
    ),
    ParameterSpec(
        "debug_score_overlay",
        "none",
        "What is drawn over debug/score as rgb8: division tints what may meet the template (GRM "
        "with backend torch).",
        choices=("none", "division"),
    ),
    ParameterSpec(
        "diagnostics_rate",
        1.0,
        "Diagnostics per second.",
        low=0.1,
        high=100.0,
        change=Change.START,
    ),
    ParameterSpec(
        "autostart",
        True,
        "Configure and activate without being told; false waits for lifecycle transitions.",
        change=Change.START,
    ),
)
