# SPDX-License-Identifier: Apache-2.0
"""Start the tracker, and if wanted a camera stand-in, a first box, and RViz.

    ros2 launch tracker_ros track.launch.py image_topic:=/camera/image_raw
    ros2 launch tracker_ros track.launch.py video:=street.mp4 box:="180 140 40 90"

A ``box`` is ``x y w h``: the top-left corner and the size, pixels. The video then shows its first
image until the target is being followed.
"""

import math
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(get_package_share_directory("tracker_ros")) / "config"

ARGUMENTS = (
    ("namespace", "", "Namespace of all nodes and topics."),
    ("use_sim_time", "false", "Take the time from /clock."),
    ("params_file", str(CONFIG / "track.yaml"), "File with parameters of tracker and video."),
    ("autostart", "true", "Configure and activate the tracker without being told."),
    ("use_respawn", "false", "Start the tracker again when it has died."),
    ("log_level", "info", "Least severity that is logged."),
    ("image_topic", "image", "Topic of the camera's images."),
    ("camera_info_topic", "camera_info", "Topic of the calibration that video publishes."),
    ("depth_topic", "depth", "Topic of registered depth images; not used yet."),
    ("model", "ostrack_tiny", "Name of the model; tracker-ros models lists them."),
    ("weights", "", "File with the model's weights; empty takes those that come with it."),
    ("device", "auto", "auto, cpu, cuda or cuda:N."),
    ("backend", "auto", "auto, torch, onnxruntime or tensorrt."),
    ("precision", "auto", "auto, fp32, fp16, bf16 or int8."),
    ("engine_cache_dir", "", "Folder of exported and built engines; empty for the user's cache."),
    ("build_engine", "true", "Export graphs and build engines that are missing; auto exports "
                             "for ONNX Runtime on a CPU and builds nothing."),
    ("model_options", "", 'Options of the model\'s family: "threshold=0.4" for GRM.'),
    ("image_transport", "raw", "raw, the only one so far."),
    ("debug_score_overlay", "none", "none, or token_mask: tint on debug/score the tokens that "
                                    "GRM compares with the template, or that OSTrack *_ce keeps; "
                                    "needs backend:=torch."),
    ("rviz", "false", "Start RViz with the debug images."),
    ("video", "", "Play this instead of a camera: file, folder, webcam index, bag:PATH:TOPIC "
                  "or synthetic."),
    ("box", "", 'Follow this box from the first image on: "x y w h", corner and size, pixels.'),
)  # fmt: skip

STRINGS = (
    "model",
    "weights",
    "device",
    "backend",
    "precision",
    "engine_cache_dir",
    "model_options",
    "image_transport",
    "debug_score_overlay",
)
FLAGS = ("autostart", "build_engine", "use_sim_time")


def generate_launch_description():
    """Return the description that ``ros2 launch`` runs."""
    given = set()
    return LaunchDescription(
        [
            # Before the declarations fill in the defaults: what has the caller given?
            OpaqueFunction(function=lambda context: given.update(context.launch_configurations)),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            OpaqueFunction(function=lambda context: nodes(context.launch_configurations, given)),
        ]
    )


def nodes(values, given):
    """Return the nodes that the arguments ask for.

    Parameters come from ``params_file``; an argument that the caller gave goes before it, while
    the default of one that was not given does not override the file.
    """
    overrides = {
        # Without the type a model named 12 would become a number.
        **{name: ParameterValue(values[name], value_type=str) for name in STRINGS},
        **{name: truth(name, values[name]) for name in FLAGS},
    }
    overrides = {name: value for name, value in overrides.items() if name in given}
    use_sim_time = {"use_sim_time": truth("use_sim_time", values["use_sim_time"])}
    common = {
        "namespace": values["namespace"],
        "output": "screen",
        "ros_arguments": ["--log-level", values["log_level"]],
        "remappings": [
            (topic, values[f"{topic}_topic"]) for topic in ("image", "camera_info", "depth")
        ],
    }
    params_file = existing(values["params_file"])
    result = [
        Node(
            package="tracker_ros",
            executable="track",
            name="track",
            parameters=[params_file, overrides],
            respawn=truth("use_respawn", values["use_respawn"]),
            respawn_delay=2.0,
            **common,
        )
    ]
    box = numbers(values["box"])
    if values["video"]:
        source = {"source": ParameterValue(values["video"], value_type=str)}
        waiting = {"wait_for_target": True} if box else {}
        result.append(
            Node(
                package="tracker_ros",
                executable="video",
                name="video",
                parameters=[params_file, source, waiting, use_sim_time],
                **common,
            )
        )
    if box:
        result.append(
            Node(
                package="tracker_ros",
                executable="select_target",
                name="select_target",
                arguments=["--box", *box],
                parameters=[use_sim_time],
                **common,
            )
        )
    if truth("rviz", values["rviz"]):
        result.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz2",
                namespace=values["namespace"],
                arguments=["-d", str(CONFIG / "track.rviz")],
                parameters=[use_sim_time],
                output="screen",
            )
        )
    return result


def existing(path):
    """Return the path of the params file; one that is missing would be passed over."""
    if not Path(path).is_file():
        raise ValueError(
            f"params_file is {path!r}, which is no file: correct the path, or leave params_file "
            "out for the defaults"
        )
    return path


def numbers(text):
    """Return the words of a box, none if there is no box."""
    words = text.replace(",", " ").split()
    try:
        good = len(words) in (0, 4) and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"box is {text!r}, wanted four numbers: x y w h, the top-left corner and the size in "
            "pixels"
        )
    return words


def truth(name, text):
    """Return a launch argument as a boolean."""
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError(f"{name} is {text!r}, wanted true or false")
    return words[text.lower()]
