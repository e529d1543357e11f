# SPDX-License-Identifier: Apache-2.0
"""The parameters of the nodes between the tracker and a robot; see `nodes/parameters.py`."""

from __future__ import annotations

from tracker_ros.nodes.parameters import Change, ParameterSpec

__all__ = ["HOG_PEOPLE_PARAMETERS", "IBVS_PARAMETERS", "MAVLINK_BRIDGE_PARAMETERS"]

RUNNING, _, START = Change

# One paragraph for each parameter.
# fmt: off
_IMAGE_TRANSPORT = ParameterSpec(
    "image_transport", "raw", START,
    "How the camera's images are sent: raw on image, or compressed on image/compressed.",
    choices=("raw", "compressed"))

MAVLINK_BRIDGE_PARAMETERS = (
    ParameterSpec(
        "connections", "udpin:0.0.0.0:14550", START,
        "Where ground stations and the autopilot are: udpin:ADDRESS:PORT waits there, "
        "udpout:HOST:PORT speaks to this host, serial:DEVICE:BAUD; several separated by spaces."),
    ParameterSpec(
        "system_id", 1, START,
        "MAVLink system: that of the vehicle.", limits=(1, 255)),
    ParameterSpec(
        "component_id", 100, START,
        "MAVLink component: 100 for the first camera, 101 to 105 for others.", limits=(1, 255)),
    ParameterSpec(
        "video_delay", 0.0, RUNNING,
        "Age of the picture that the operator sees, seconds: a target is selected on the image "
        "of that time. 0 takes the latest image.", limits=(0.0, 60.0)),
    _IMAGE_TRANSPORT,
    ParameterSpec(
        "point_size", 0.1, START,
        "Least side of the box that is followed around a point, as a part of the image's width.",
        limits=(0.01, 1.0)),
    ParameterSpec(
        "default_rate", 10.0, START,
        "Messages per second of a stream that is requested without an interval.",
        limits=(0.1, 100.0)),
    ParameterSpec(
        "geo_status", False, START,
        "Offer CAMERA_TRACKING_GEO_STATUS. Needs target_direction with a distance, and attitude "
        "and position of the autopilot on one of the connections."),
    ParameterSpec(
        "target_relative", False, START,
        "Offer TARGET_RELATIVE and send it to the autopilot for each image. Needs "
        "target_direction with a distance."),
    *(
        ParameterSpec(
            f"camera_{name}", 0.0, START,
            f"{name.capitalize()} of the camera relative to the vehicle, degrees{more}.",
            limits=(-180.0, 180.0))
        for name, more in (
            ("roll", "; applied after pitch and yaw"),
            ("pitch", "; -90 looks down"),
            ("yaw", "; 90 looks to the right"),
        )
    ),
)

IBVS_PARAMETERS = (
    ParameterSpec(
        "gain", 1.5, RUNNING,
        "Turning rate for each unit of error, 1/s. Above about 0.5 divided by the delay from "
        "image to motion in seconds, the camera swings.", limits=(0.0, 20.0)),
    ParameterSpec(
        "max_rate", 1.0, RUNNING,
        "Greatest turning rate about each axis, rad/s.", limits=(0.0, 20.0)),
    ParameterSpec(
        "max_acceleration", 4.0, RUNNING,
        "Greatest change of a turning rate, rad/s^2.", limits=(0.01, 1000.0)),
    ParameterSpec(
        "dead_band", 0.01, RUNNING,
        "Error in rad that is left alone.", limits=(0.0, 1.0)),
    ParameterSpec(
        "timeout", 0.3, RUNNING,
        "Seconds without a direction after which the camera stands still.", limits=(0.01, 10.0)),
    ParameterSpec(
        "rate", 30.0, START,
        "Commands per second.", limits=(1.0, 500.0)),
)

HOG_PEOPLE_PARAMETERS = (
    _IMAGE_TRANSPORT,
    ParameterSpec(
        "rate", 2.0, RUNNING,
        "Most detections per second.", limits=(0.1, 100.0)),
    ParameterSpec(
        "threshold", 0.3, RUNNING,
        "Least weight of a detection; more finds less.", limits=(0.0, 10.0)),
    ParameterSpec(
        "magnification", 1.0, RUNNING,
        "Size at which images are searched: people of less than 100 pixels are found only in "
        "enlarged ones.", limits=(0.25, 4.0)),
)
# fmt: on
