# SPDX-License-Identifier: Apache-2.0
"""The parameters of the nodes: one table for each node, and what is made from it.

`TRACK_PARAMETERS`, `VIDEO_PARAMETERS` and `CONSOLE_PARAMETERS` list defaults, ranges, descriptions
and when a parameter may change. The nodes declare and check their parameters by these tables,
``--help`` and the launch file read them, and ``python -m tools.generate`` writes
``config/track.yaml`` and the tables in the documentation from them.

rclpy's own checks name a type by its number and know no choices. So parameters are declared with
dynamic typing, which also lets ``5`` stand for ``5.0``, and checked here.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import textwrap
from array import array
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
from tracker_ros.io.grey_range import parse_grey_range
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.model_options import parse_options
from tracker_ros.nodes.node_main import NodeStartError
from tracker_ros.quoting import printable
from tracker_ros.registry import BACKENDS, PRECISIONS, is_device_name, model_card

Value = bool | int | float | str
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_MAX_FRAMES = 1_000_000_000
_CAMERA_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")


class ParameterError(ValueError):
    """A value is refused; the message names parameter, value and what was expected."""


class Change(Enum):
    """When a parameter may change; the value is the wording of its description."""

    RUNNING = "may change at any time"
    UNCONFIGURED = "may change while the node is unconfigured (cleanup, set, configure)"
    START = "is read once, when the node starts"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter."""

    name: str
    default: Value  # its default, which also determines the type
    change: Change  # when it may change
    description: str  # what it does
    limits: tuple[float, float] | None = None  # least and greatest accepted number
    choices: tuple[str, ...] = ()  # accepted strings; empty accepts any
    # further check of one value. Returns what was expected, or an empty string.
    check: Callable[[Value], str] | None = None
    # turns another way to give a value into the usual one
    read: Callable[[object], object] = lambda value: value

    @property
    def default_text(self) -> str:
        """The default as `parse` reads it."""
        text = str(self.default)
        return text.lower() if isinstance(self.default, bool) else text

    @property
    def expected(self) -> str:
        """What values are accepted, in words."""
        if self.choices:
            return "one of " + ", ".join(f"'{c}'" for c in self.choices)
        limits = "" if self.limits is None else " from {:g} to {:g}".format(*self.limits)
        return _WORDS[type(self.default)] + limits

    def checked(self, value: object) -> Value:
        """Return ``value`` in the parameter's type.

        Raises ParameterError if the value has another type or is out of range.
        """
        value = self.read(value)
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self._error("unset" if value is None else f"{value!r}", self.expected)
        good = not self.choices or value in self.choices
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high = self.limits or (-math.inf, math.inf)
            good = math.isfinite(value) and low <= value <= high
        if not good:
            raise self._error(f"{value!r}", self.expected)
        if self.check is not None and (expected := self.check(value)):
            raise self._error(f"{value!r}", expected)
        return value

    def parse(self, text: str) -> Value:
        """Read the parameter's value from a text, as a launch argument gives it.

        Raises ParameterError if the text cannot be read, or the value is refused.
        """
        kind = type(self.default)
        try:
            value = _TRUTH[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise self._error(f"{text!r}", self.expected) from None
        return self.checked(value)

    def descriptor(self) -> ParameterDescriptor:
        """Return description and range for the ROS tools."""
        result = ParameterDescriptor(
            name=self.name,
            description=f"{self.description} Default: {self.default!r}; {self.change.value}.",
            additional_constraints=f"expected: {self.expected}",
            dynamic_typing=True,
        )
        if self.limits is not None and isinstance(self.default, float):
            low, high = map(float, self.limits)
            result.floating_point_range.append(FloatingPointRange(from_value=low, to_value=high))
        elif self.limits is not None:
            low, high = map(int, self.limits)
            result.integer_range.append(IntegerRange(from_value=low, to_value=high))
        return result

    def _error(self, value: str, expected: str) -> ParameterError:
        return ParameterError(
            f"parameter {self.name} is {printable(value)}, expected {printable(expected, 1000)}"
        )


class ParameterTable:
    """Declares a table of parameters on a node, keeps their values and guards their changes.

    `cross_check` raises ParameterError if all values together contradict each other. UNCONFIGURED
    parameters are fixed while `configured` returns True. `changed` is called with all values after
    an accepted change at run time. Raises NodeStartError if a value given at start is refused.
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
        """Return the value of a string."""
        return str(self._values[name])

    def number(self, name: str) -> float:
        """Return the value of a number."""
        return float(self._values[name])

    def integer(self, name: str) -> int:
        """Return the value of an integer."""
        return int(self._values[name])

    def flag(self, name: str) -> bool:
        """Return the value of a boolean."""
        return bool(self._values[name])

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Accept all of a change or nothing."""
        values = dict(self._values)
        try:
            for parameter in parameters:
                if (spec := self._specs.get(parameter.name)) is not None:
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
        """Raise ParameterError if the parameter may not change now."""
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
            f"parameter {spec.name} cannot become {printable(repr(value))} now, it "
            f"{spec.change.value}: {remedy}"
        )


def check_scores(values: Mapping[str, Value]) -> None:
    """Raise ParameterError if ``score_lost`` exceeds ``score_found``."""
    found, lost = cast(float, values["score_found"]), cast(float, values["score_lost"])
    if lost > found:
        raise ParameterError(
            f"parameter score_lost is {lost:g}, expected at most score_found ({found:g}): "
            "set both together"
        )


def check_command_line(
    program: str, about: str, specs: Sequence[ParameterSpec], args: list[str] | None
) -> None:
    """Show the help of a node if it is asked for; refuse arguments that are not ROS's.

    The arguments are those without the program's name, by default those of this process. Raises
    SystemExit: 0 after help; 2 for an argument that would be ignored.
    """
    indent = "      "
    parameters = "\n".join(
        f"  {spec.name} ({spec.default!r})\n"
        + textwrap.fill(spec.description, 90, initial_indent=indent, subsequent_indent=indent)
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


def _readable(read: Callable[[str], object], what: str) -> Callable[[Value], str]:
    """Return a check that a function can read a value; it tells `what` is expected, and why."""

    def check(value: Value) -> str:
        try:
            read(str(value))
        except ValueError as error:
            return f"{what}: {error}"
        return ""

    return check


_check_model = _readable(model_card, "the name of a model")
_check_encoding = _readable(lambda text: ImageDecoder(encoding_override=text), "an encoding")
_check_range = _readable(parse_grey_range, "a range of grey")
_check_options = _readable(
    lambda text: parse_options(text.split()), "NAME=VALUE, several separated by spaces"
)


def _check_device(value: Value) -> str:
    if is_device_name(str(value)):
        return ""
    return "'auto', 'cpu', 'cuda' or 'cuda:N' with the number of a GPU"


def _range_text(value: object) -> object:
    """Return an array of numbers as text, anything else as it is."""
    return str(list(value)) if isinstance(value, (list, array)) else value


def _words(value: object) -> object:
    """Return a list of words as one text, anything else as it is."""
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value


def _check_cameras(value: Value) -> str:
    names = str(value).split()
    if len(set(names)) == len(names) and all(_CAMERA_NAME.fullmatch(name) for name in names):
        return ""
    return "different names of letters, digits and underscores that begin with a letter"


RUNNING, UNCONFIGURED, START = Change

# One paragraph for each parameter.
# fmt: off
TRACK_PARAMETERS = (
    ParameterSpec(
        "cameras", "", START,
        "Names of several cameras, as [front, left]: each has the topics and services under its "
        "name, as front/image and front/select_target, and all share one copy of the model. "
        "Empty: one camera, without a name.", check=_check_cameras, read=_words),
    ParameterSpec(
        "model", DEFAULT_MODEL, UNCONFIGURED,
        "Name of the model; tracker-ros models lists them.", check=_check_model),
    ParameterSpec(
        "weights", "", UNCONFIGURED,
        "File with the model's weights (safetensors); empty takes those in the package."),
    ParameterSpec(
        "device", "auto", UNCONFIGURED,
        "Where the model runs: auto (a GPU if there is one), cpu, cuda or cuda:N.",
        check=_check_device),
    ParameterSpec(
        "backend", "auto", UNCONFIGURED,
        "Back end that runs the model: torch, onnxruntime or tensorrt. auto takes onnxruntime "
        "for embedded models on a CPU, otherwise the fastest that is prepared.",
        choices=BACKENDS),
    ParameterSpec(
        "precision", "auto", UNCONFIGURED,
        "Number format of the computation: fp32; fp16 on GPUs and in ONNX Runtime; on CPUs, for "
        "models that have it, int8 in ONNX Runtime and bf16 in torch; with backend auto, fp32 "
        "takes the place of what model or processor lack. auto leaves it to the back end.",
        choices=PRECISIONS),
    ParameterSpec(
        "engine_cache_dir", "", UNCONFIGURED,
        "Folder of exported graphs and built engines; empty takes one in the user's cache."),
    ParameterSpec(
        "build_engine", False, UNCONFIGURED,
        "Whether a back end chosen by name may export missing graphs (seconds to minutes) and "
        "build missing engines for TensorRT (minutes) while the model loads. If false, it fails "
        "where files are missing. auto takes what is there, and embedded models need nothing."),
    ParameterSpec(
        "model_options", "", UNCONFIGURED,
        "Options of the model as NAME=VALUE, several separated by spaces, such as "
        "threshold=0.4 for GRM; `tracker-ros models MODEL --options` lists them.",
        check=_check_options),
    ParameterSpec(
        "image_transport", "raw", UNCONFIGURED,
        "How images are sent: raw; compressed (JPEG, PNG, TIFF) on image/compressed; ffmpeg "
        "(packets of H.264, H.265 or AV1) on image/ffmpeg.",
        choices=("raw", "compressed", "ffmpeg")),
    ParameterSpec(
        "encoding_override", "", UNCONFIGURED,
        "Encoding that takes the place of the one in the images, mono16 for a picture sent as "
        "16UC1 for example; empty takes theirs.", check=_check_encoding),
    ParameterSpec(
        "mono16_range", "auto", UNCONFIGURED,
        "Counts that become black and white in grey images and Bayer patterns of 16 bits: "
        "auto (the image's own range, smoothed), full, or [low, high].", check=_check_range,
        read=_range_text),
    ParameterSpec(
        "buffer_seconds", 5.0, RUNNING,
        "Seconds of images that are kept, so that a target can be selected on an earlier image.",
        limits=(0.0, 60.0)),
    ParameterSpec(
        "buffer_megabytes", 256.0, RUNNING,
        "Megabytes that these images may take.", limits=(1.0, 65536.0)),
    ParameterSpec(
        "score_found", 0.6, RUNNING,
        "A target with this score or more is found. TrDiMP, TrSiam and MAST judge each image "
        "themselves, too.", limits=(0.0, 1.0)),
    ParameterSpec(
        "score_lost", 0.5, RUNNING,
        "A target with a lower score is not seen; at most score_found.",
        limits=(0.0, 1.0)),
    ParameterSpec(
        "lost_after", 1.0, RUNNING,
        "Seconds without seeing the target after which it is lost.", limits=(0.0, 3600.0)),
    ParameterSpec(
        "redetect", True, RUNNING,
        "Whether a lost target is looked for in the whole image, a window per frame; otherwise "
        "only where it was lost. MAST always searches the whole image."),
    ParameterSpec(
        "redetect_interval", 0.0, RUNNING,
        "Seconds between two looks elsewhere for a lost target; 0 looks in every frame.",
        limits=(0.0, 3600.0)),
    ParameterSpec(
        "image_rectified", False, RUNNING,
        "Whether the images are rectified (image_rect): then p of camera_info holds, and no "
        "distortion."),
    ParameterSpec(
        "depth_transport", "raw", UNCONFIGURED,
        "How depth arrives: raw on depth, or compressedDepth on depth/compressedDepth.",
        choices=("raw", "compressedDepth")),
    ParameterSpec(
        "depth_tolerance", 0.05, RUNNING,
        "Seconds by which the stamps of an image and of its depth may differ.",
        limits=(0.0, 10.0)),
    ParameterSpec(
        "target_size_m", 0.0, RUNNING,
        "What the longer side of a target's box shows, metres: gives the distance where there "
        "is no depth. 0 if unknown.", limits=(0.0, 1000.0)),
    ParameterSpec(
        "fixed_frame", "", UNCONFIGURED,
        "Frame that does not move with the camera, as odom or map, in which poses and velocities "
        "are given; needs transforms on /tf. Empty takes the camera's."),
    ParameterSpec(
        "predict", False, RUNNING,
        "Whether directions, poses and target_predicted hold for the time of publication instead "
        "of the image's."),
    ParameterSpec(
        "target_frame_prefix", "", UNCONFIGURED,
        "If given, the frame PREFIX + id is published on /tf for each target with a position, as "
        "target_1 with target_."),
    ParameterSpec(
        "debug_rate", 10.0, RUNNING,
        "Most images per second on debug/image and debug/score; 0 publishes one for each image.",
        limits=(0.0, 1000.0)),
    ParameterSpec(
        "debug_scale", 1.0, RUNNING,
        "Size of debug/image relative to the camera's image.", limits=(0.05, 4.0)),
    ParameterSpec(
        "debug_score_encoding", "rgb8", RUNNING,
        "Encoding of debug/score: colours (rgb8) or the score map itself (32FC1).",
        choices=("rgb8", "32FC1")),
    ParameterSpec(
        "debug_score_overlay", "none", RUNNING,
        "What is drawn over debug/score as rgb8: token_mask tints the search tokens that "
        "were compared with the template (GRM) or kept (OSTrack *_ce), with backend torch.",
        choices=("none", "token_mask")),
    ParameterSpec(
        "annotations", False, UNCONFIGURED,
        "Whether boxes, ids and scores are published on target_annotations for Foxglove; needs "
        "the package foxglove_msgs."),
    ParameterSpec(
        "hang_timeout", 30.0, RUNNING,
        "Seconds that the model may take for one image or one selection; then it counts as hung. "
        "0 sets no limit. Loading is not limited.", limits=(0.0, 3600.0)),
    ParameterSpec(
        "exit_on_fault", True, RUNNING,
        "Whether the program ends, with status 70, when its worker has died or the model hangs, "
        "so that launch (use_respawn) or systemd starts it again. If false it stays, reports an "
        "error and refuses requests until it is cleaned up and configured again."),
    ParameterSpec("diagnostics_rate", 1.0, START, "Diagnostics per second.", limits=(0.1, 100.0)),
    ParameterSpec(
        "autostart", True, START,
        "Configure and activate when started; false waits for lifecycle transitions."),
)
"""The parameters of ``track``."""

VIDEO_PARAMETERS = (
    ParameterSpec(
        "source", "synthetic", START,
        "Video file, image folder or glob, webcam index, bag:PATH:TOPIC or synthetic[:SEED]."),
    ParameterSpec(
        "rate", 0.0, START,
        "Images per second; 0 takes the source's own rate.", limits=(0.0, 1000.0)),
    ParameterSpec("loop", False, START, "Start again at the end."),
    ParameterSpec(
        "stamp", "now", START,
        "Stamps: the time of publication (now), or the start plus the time in the recording "
        "(source).", choices=("now", "source")),
    ParameterSpec(
        "transport", "raw", START,
        "How images are sent: raw on image; compressed (JPEG) on image/compressed; ffmpeg (H.264, "
        "as FFMPEGPacket or, if only that is installed, CompressedVideo) on image/ffmpeg.",
        choices=("raw", "compressed", "ffmpeg")),
    ParameterSpec("frame_id", "camera", START, "frame_id of the images."),
    ParameterSpec(
        "mono16_range", "auto", START,
        "Counts that become black and white in grey images of 16 bits: auto, full, or "
        "[low, high].", check=_check_range, read=_range_text),
    ParameterSpec("start_frame", 0, START, "Images to skip.", limits=(0, _MAX_FRAMES)),
    ParameterSpec("frames", 0, START, "Images to play; 0 plays all.", limits=(0, _MAX_FRAMES)),
    ParameterSpec(
        "wait_for_subscribers", 0, START,
        "Number of subscribers to image for which the first image waits.", limits=(0, 100)),
    ParameterSpec(
        "wait_for_target", False, START,
        "Repeat the first image until target_status says that a target is tracked."),
    ParameterSpec(
        "field_of_view", 60.0, START,
        "Horizontal field of view for camera_info, degrees.", limits=(1.0, 170.0)),
)
"""The parameters of ``video``."""

CONSOLE_PARAMETERS = (
    ParameterSpec(
        "host", "127.0.0.1", START,
        "Address to listen on: 127.0.0.1 serves this machine, 0.0.0.0 the network, with a token."),
    ParameterSpec("port", 8060, START, "Port; 0 takes a free one.", limits=(0, 65_535)),
    ParameterSpec(
        "token", "", START,
        "What the page's address must contain as ?token=; empty makes one when it is needed."),
    ParameterSpec(
        "cameras", "", START,
        "Cameras or namespaces of the trackers to show, as [front, left]; empty shows the "
        "console's own namespace.", read=_words),
    ParameterSpec(
        "image_transport", "raw", START,
        "How the cameras' images are sent: raw on image, or compressed on image/compressed.",
        choices=("raw", "compressed")),
    ParameterSpec(
        "encoding_override", "", START,
        "Encoding that takes the place of the one in the images, as the tracker's.",
        check=_check_encoding),
    ParameterSpec(
        "transport", "auto", START,
        "How pictures go to browsers: webrtc (video, needs aiortc), where that cannot pass JPEG; "
        "or jpeg. auto takes jpeg for browsers on this machine only, else webrtc.",
        choices=("auto", "webrtc", "jpeg")),
    ParameterSpec("max_width", 960, START, "Width of pictures, pixels.", limits=(64, 7680)),
    ParameterSpec("max_rate", 30.0, START, "Pictures per second.", limits=(0.1, 240.0)),
    ParameterSpec("jpeg_quality", 80, START, "Quality of the JPEG pictures.", limits=(1, 100)),
    ParameterSpec(
        "video_bitrate", 3000, START, "Most kilobits per second of one camera's video.",
        limits=(100, 50_000)),
)
"""The parameters of ``console``."""
# fmt: on
