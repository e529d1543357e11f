# SPDX-License-Identifier: Apache-2.0
"""Parameters as tables: default, range, meaning, and when each may change.

rclpy's own checks name a type by its number and know no choices, so parameters are declared with
dynamic typing (which also lets ``5`` stand for ``5.0``) and checked here, in words.

The parameters of the ``track`` node.

The same defaults stand in ``config/track.yaml`` and ``launch/track.launch.py``; a test compares.

The command line of a node that has only ROS's arguments: ``--help``, and no others.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args

from tracker_ros import DEFAULT_MODEL
from tracker_ros.model_options import parse_options
from tracker_ros.nodes.node_main import NodeStartError
from tracker_ros.registry import BACKENDS, PRECISIONS, is_device_name

__all__ = [
    "Change",
    "ParameterError",
    "ParameterSpec",
    "ParameterTable",
    "TRACK_PARAMETERS",
    "Value",
    "check_command_line",
    "check_scores",
]

Value = bool | int | float | str
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


class ParameterError(ValueError):
    """A value is refused; the message names parameter, value and what was wanted."""


class Change(Enum):
    """When a parameter may change; the value is what its description says of it."""

    RUNNING = "may change at any time"
    UNCONFIGURED = "may change while the node is unconfigured (cleanup, set, configure)"
    START = "is read once, when the node starts"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: Its name.
        default: Its default, which also gives the type.
        description: What it does, for ``ros2 param describe``.
        low: Least accepted number, or None.
        high: Greatest accepted number, or None.
        choices: Accepted strings; empty accepts any.
        change: When it may change.
        check: Further check of one value: returns what was wanted, or an empty string.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.RUNNING
    check: Callable[[Value], str] | None = None

    @property
    def wanted(self) -> str:
        """What values are accepted, in words."""
        if self.choices:
            return "one of " + ", ".join(f"'{c}'" for c in self.choices)
        text = _WORDS[type(self.default)]
        if self.low is not None and self.high is not None:
            text += f" from {self.low:g} to {self.high:g}"
        elif self.low is not None:
            text += f", {self.low:g} or more"
        return text

    def checked(self, value: object) -> Value:
        """The value in the parameter's type.

        Raises:
            ParameterError: The value has another type or is out of range.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            named = "unset" if value is None else f"{value!r}"
            raise ParameterError(f"parameter {self.name} is {named}, wanted {self.wanted}")
        good = not self.choices or value in self.choices
        if isinstance(value, (int, float)):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            good = math.isfinite(value) and low <= value <= high
        complaint = (self.wanted if not good else "") or (self.check(value) if self.check else "")
        if complaint:
            raise ParameterError(f"parameter {self.name} is {value!r}, wanted {complaint}")
        return value

    def descriptor(self) -> ParameterDescriptor:
        """Description and range for the ROS tools."""
        result = ParameterDescriptor(
            name=self.name,
            description=f"{self.description} Default: {self.default!r}; {self.change.value}.",
            additional_constraints=f"wanted: {self.wanted}",
            dynamic_typing=True,
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                result.floating_point_range.append(
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                )
            else:
                result.integer_range.append(
                    IntegerRange(from_value=int(self.low), to_value=int(self.high))
                )
        return result


class ParameterTable:
    """Declares a table of parameters on a node, keeps their values and guards their changes.

    Args:
        node: The node.
        specs: The table.
        cross_check: Gets all values together; raises ParameterError if they do not fit.
        configured: Whether the node is configured, that is whether UNCONFIGURED parameters are
            fixed now.
        changed: Called with all values after an accepted change at run time.

    Raises:
        NodeStartError: A value given at start is refused.
    """

    def __init__(
        self,
        node: Node,
        specs: Sequence[ParameterSpec],
        cross_check: Callable[[Mapping[str, Value]], None] = lambda values: None,
        configured: Callable[[], bool] = lambda: False,
        changed: Callable[[Mapping[str, Value]], None] = lambda values: None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._cross_check = cross_check
        self._configured = configured
        self._changed = changed
        self._values: dict[str, Value] = {}
        try:
            for spec in specs:
                given = node.declare_parameter(spec.name, spec.default, spec.descriptor())
                self._values[spec.name] = spec.checked(given.value)
            cross_check(self._values)
        except (ParameterError, InvalidParameterValueException) as error:
            raise NodeStartError(
                f"{error}: correct the params file, launch argument or command line"
            ) from error
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def values(self) -> Mapping[str, Value]:
        """All values by name."""
        return dict(self._values)

    def text(self, name: str) -> str:
        """Value of a string parameter."""
        return str(self._values[name])

    def number(self, name: str) -> float:
        """Value of a number, whether it was given as integer or not."""
        return float(self._values[name])

    def integer(self, name: str) -> int:
        """Value of an integer."""
        return int(self._values[name])

    def flag(self, name: str) -> bool:
        """Value of a boolean."""
        return bool(self._values[name])

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Accept all of a change or nothing."""
        values = dict(self._values)
        try:
            for parameter in parameters:
                spec = self._specs.get(parameter.name)
                if spec is None:
                    continue
                value = spec.checked(parameter.value)
                self._check_moment(spec, value)
                values[spec.name] = value
            self._cross_check(values)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if values != self._values:
            self._values = values
            self._changed(values)
        return SetParametersResult(successful=True)

    def _check_moment(self, spec: ParameterSpec, value: Value) -> None:
        if value == self._values[spec.name] or spec.change is Change.RUNNING:
            return
        if spec.change is Change.UNCONFIGURED and not self._configured():
            return
        remedy = (
            "give it when the node is started"
            if spec.change is Change.START
            else "clean the node up, set it, and configure the node again"
        )
        raise ParameterError(
            f"parameter {spec.name} cannot become {value!r} now, it {spec.change.value}: {remedy}"
        )


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
        "What is drawn over debug/score as rgb8: token_mask tints the search tokens that were "
        "compared with the template (GRM) or kept (OSTrack *_ce), with backend torch.",
        choices=("none", "token_mask"),
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


_INDENT = "      "


def check_command_line(
    program: str, about: str, specs: Sequence[ParameterSpec], args: list[str] | None
) -> None:
    """End the program if it is asked for help or given an argument that it would pass over.

    Args:
        program: Name of the executable.
        about: What it does, in a sentence.
        specs: Its parameters.
        args: Command line without the program's name, that of this process if None.

    Raises:
        SystemExit: 0 after help; 2 for an argument that is not ROS's.
    """
    parameters = "\n".join(
        f"  {spec.name} ({spec.default!r})\n"
        + textwrap.fill(spec.description, 90, initial_indent=_INDENT, subsequent_indent=_INDENT)
        for spec in specs
    )
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"ros2 run tracker_ros {program} [-h] [--ros-args -p NAME:=VALUE -r FROM:=TO ...]",
        description=about,
        epilog="parameters, with their defaults, given by --ros-args -p NAME:=VALUE or "
        f"--params-file FILE:\n{parameters}\n\nWhile it runs: ros2 param describe /{program} NAME",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(remove_ros_args(sys.argv[1:] if args is None else args))
