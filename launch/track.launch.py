# SPDX-License-Identifier: Apache-2.0
"""Start the tracker, and optionally a camera stand-in, a first box and RViz.

    ros2 launch tracker_ros track.launch.py image_topic:=/camera/image_raw
    ros2 launch tracker_ros track.launch.py video:=street.mp4 box:="180 140 40 90"
    ros2 launch tracker_ros track.launch.py cameras:="front left" image_topic:=image_raw

A ``box`` is ``x y w h``: the top-left corner and the size, pixels. The video then repeats its
first image until the target is followed. Every parameter of the tracker is a launch argument too.
"""

import math
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from tracker_ros.nodes.parameters import TRACK_PARAMETERS, Change, ParameterSpec

CONFIG = Path(get_package_share_directory("tracker_ros")) / "config"

OWN_ARGUMENTS = (
    ("namespace", "", "Namespace of all nodes and topics."),
    ("use_sim_time", "false", "Take the time from /clock."),
    ("params_file", str(CONFIG / "track.yaml"), "File with parameters of the nodes."),
    ("use_respawn", "false", "Start the tracker again when it has died."),
    ("log_level", "info", "Lowest severity that is logged."),
    ("image_topic", "image", "Topic of the camera's images. With several cameras, this and the "
                             "next two are names below each camera's, or one topic for each."),
    ("camera_info_topic", "camera_info", "Topic of the camera's calibration."),
    ("depth_topic", "depth", "Topic of depth images, registered to the colour image."),
    ("rviz", "false", "Start RViz with the debug images."),
    ("console", "false", "Serve the console for browsers: http://127.0.0.1:8060/."),
    ("video", "", "Play this instead of a camera: file, folder, webcam index, bag:PATH:TOPIC "
                  "or synthetic."),
    ("box", "", 'Follow this box from the first image on: "x y w h", corner and size, pixels.'),
)  # fmt: skip


def generate_launch_description():
    """Return the description that ``ros2 launch`` runs."""
    given = set()
    return LaunchDescription(
        [
            # Before the declarations add the defaults: which arguments has the caller given?
            OpaqueFunction(function=lambda context: given.update(context.launch_configurations)),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in [*OWN_ARGUMENTS, *parameter_arguments()]
            ),
            OpaqueFunction(function=lambda context: nodes(context.launch_configurations, given)),
        ]
    )


def parameter_arguments():
    """Return name, default and description of the launch argument for each parameter."""
    return [(spec.name, spec.default_text, spec.description) for spec in TRACK_PARAMETERS]


def nodes(values, given):
    """Return the nodes to start.

    Args:
        values: All launch arguments by name, as text.
        given: The names of those that the caller gave. They override ``params_file``; the
            defaults of the others do not.
    """
    overrides = {
        spec.name: typed(spec, values[spec.name])
        for spec in TRACK_PARAMETERS
        if spec.name in given
    }
    use_sim_time = {"use_sim_time": flag("use_sim_time", values["use_sim_time"])}
    if "use_sim_time" in given:
        overrides.update(use_sim_time)
    params_file = existing_file(values["params_file"])
    box = box_words(values["box"])
    cameras = topics_of_cameras(values)

    def program(executable, *parameters, camera="", topics=(), **options):
        return Node(
            package="tracker_ros",
            executable=executable,
            name=executable,
            namespace=below(values["namespace"], camera),
            parameters=list(parameters),
            output="screen",
            ros_arguments=["--log-level", values["log_level"]],
            remappings=list(topics),
            **options,
        )

    topics = [
        (below(camera, topic), below(camera, chosen))
        for camera, own in cameras.items()
        for topic, chosen in own.items()
    ]
    respawn = {"respawn": flag("use_respawn", values["use_respawn"]), "respawn_delay": 2.0}
    result = [program("track", params_file, overrides, topics=topics, **respawn)]
    for camera, own in cameras.items():
        # These programs know one camera: each runs below its camera's name.
        place = {"camera": camera, "topics": own.items()}
        if values["video"]:
            source = {"source": ParameterValue(values["video"], value_type=str)}
            waiting = {"wait_for_target": True} if box else {}
            source["transport"] = values["image_transport"]
            result.append(program("video", params_file, source, waiting, use_sim_time, **place))
        if box:
            chosen = {"arguments": ["--box", *box, "--transport", values["image_transport"]]}
            result.append(program("select_target", use_sim_time, **place, **chosen))
    if flag("console", values["console"]):
        names = ParameterValue(" ".join(cameras), value_type=str)
        shown = {"cameras": names} if any(cameras) else {}
        if values["image_transport"] == "compressed":
            shown["image_transport"] = "compressed"
        result.append(program("console", params_file, shown, use_sim_time, topics=topics))
    if flag("rviz", values["rviz"]):
        rviz = {"executable": "rviz2", "package": "rviz2", "name": "rviz2", "output": "screen"}
        view = ["-d", str(CONFIG / "track.rviz")]
        where = {"namespace": values["namespace"], "parameters": [use_sim_time]}
        result.append(Node(**rviz, **where, arguments=view))
    return result


def below(place, name):
    """Return a name below a namespace, unless it is absolute."""
    return f"{place}/{name}" if place and name and not name.startswith("/") else name or place


def topics_of_cameras(values):
    """Return the topics that take the place of the usual ones, by these, for each camera.

    Without several cameras there is one with an empty name.
    """
    (spec,) = (spec for spec in TRACK_PARAMETERS if spec.name == "cameras")
    names = spec.parse(values["cameras"]).split() or [""]
    result = {name: {} for name in names}
    for topic in ("image", "camera_info", "depth"):
        given = values[f"{topic}_topic"].split()
        absolute = [name.startswith("/") for name in given]
        one_for_all = len(given) == 1 and (len(names) == 1 or not absolute[0])
        if not one_for_all and not (len(given) == len(names) and all(absolute)):
            raise ValueError(
                f"{topic}_topic is {values[f'{topic}_topic']!r}, expected a name that is taken "
                "below each camera's, as image_raw, or a topic for each camera that begins with "
                f"a slash; the cameras are {' '.join(names)}"
            )
        for place, name in enumerate(names):
            result[name][topic] = given[0 if one_for_all else place]
    return result


def typed(spec, text):
    """Return a launch argument in the type of its parameter."""
    value = spec.parse(text)
    # Without the type, launch would turn a model named 12 into a number.
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value


def flag(name, text):
    """Return a launch argument as a boolean."""
    return ParameterSpec(name, False, Change.START, "").parse(text)


def existing_file(path):
    """Return the path of the params file; launch would ignore a missing one."""
    if not Path(path).is_file():
        raise ValueError(
            f"params_file is {path!r}, which is no file: correct the path, or leave params_file "
            "out for the defaults"
        )
    return path


def box_words(text):
    """Return the four words of a box, none if there is no box."""
    words = text.replace(",", " ").split()
    try:
        good = len(words) in (0, 4) and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"box is {text!r}, expected four numbers: x y w h, the top-left corner and the size "
            "in pixels"
        )
    return words
