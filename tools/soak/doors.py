# SPDX-License-Identifier: Apache-2.0
"""The doors beside image and box: detections, compressed images, space, ground stations."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from vision_msgs.msg import Detection2D, Detection2DArray

from tools.harness.ground_station import GroundStation
from tools.harness.operator import ACTIVE, UNCONFIGURED
from tools.soak.camera import JPEG, SIZE
from tools.soak.driver import Driver
from tools.soak.space import CALIBRATIONS, DEPTHS, FIXED_FRAME, TRANSFORMS
from tracker_interfaces.srv import SelectFromDetections, SelectTarget
from tracker_ros.mavlink.dialect import load_dialect

_mavlink = load_dialect()
INTERVALS = (-1.0, 0.0, 20_000.0, -7.0, math.nan)
ORDERS = (
    _mavlink.MAV_CMD_CAMERA_STOP_TRACKING,
    _mavlink.MAV_CMD_REQUEST_MESSAGE,
    4242,  # no such command
)


class Doors:
    """Uses each of these doors, well or badly.

    Args:
        driver: Camera and operator.
        chance: Decides everything.
        station: A ground station in front of the bridge.
        pick: Returns a selection, well or badly.
    """

    def __init__(
        self,
        driver: Driver,
        chance: random.Random,
        station: GroundStation,
        pick: Callable[[], SelectTarget.Request],
    ) -> None:
        self._driver = driver
        self._camera = driver.camera
        self._chance = chance
        self._station = station
        self._pick = pick

    def select_detection(self) -> None:
        """Publish what a detector might find, and select from it."""
        picked = self._pick()
        found = Detection2DArray(header=picked.header)
        found.detections.append(Detection2D(header=picked.header, bbox=picked.bbox))
        self._driver.detections.publish(found)
        self._driver.spin(0.1)
        wanted = SelectFromDetections.Request(rule=self._chance.choice((0, 0, 1, 2, 9)))
        wanted.class_id = self._chance.choice(("", "", "", "unicorn"))
        wanted.min_score = self._chance.choice((0.0, 0.0, 0.0, math.nan))
        self._driver.call(self._driver.chooser, wanted)

    def compress(self) -> None:
        """Send compressed images for a while, broken ones too; then change the fixed frame."""
        driver, camera = self._driver, self._camera
        driver.bring(UNCONFIGURED)
        driver.set(image_transport="compressed")
        camera.show_as(SIZE, JPEG)
        driver.bring(ACTIVE)
        driver.until(lambda: camera.shown, "a compressed image to be shown")
        driver.until(lambda: driver.select(camera.shown[-1].box).success, "a target in JPEG")
        heard = driver.boxes_heard
        driver.until(lambda: driver.boxes_heard > heard, "a box in a compressed image")
        camera.faulty = self._chance.randint(1, 12)
        driver.spin(self._chance.uniform(0.2, 1.0))
        driver.bring(UNCONFIGURED)
        camera.faulty = 0
        camera.show_as(SIZE, "rgb8")
        driver.set(
            image_transport="raw",
            fixed_frame=self._chance.choice(("", FIXED_FRAME, "nowhere")),
            target_frame_prefix=self._chance.choice(("", "target_")),
        )
        driver.bring(ACTIVE)

    def measure(self) -> None:
        """Send calibration, depth and transforms, or stop; ask for directions and poses."""
        space, chance = self._camera.space, self._chance
        space.calibration = chance.choice(CALIBRATIONS)
        space.depth = chance.choice(DEPTHS)
        space.transform = chance.choice(TRANSFORMS)
        self._driver.look_where(chance.random() < 0.7)
        self._driver.set(
            predict=chance.random() < 0.5,
            target_size_m=chance.choice((0.0, 1.7)),
            image_rectified=chance.random() < 0.3,
            depth_tolerance=chance.choice((0.0, 0.05)),
        )

    def fly(self) -> None:
        """Select and stop as a ground station does; send it nonsense and noise as well."""
        chance = self._chance
        image = _mavlink.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
        self._order(_mavlink.MAV_CMD_SET_MESSAGE_INTERVAL, image, chance.choice(INTERVALS))
        if self._camera.shown:
            width, height = self._camera.size
            x, y, w, h = self._camera.shown[-1].box
            corners = [x / width, y / height, (x + w) / width, (y + h) / height]
            if chance.random() < 0.3:
                corners[chance.randrange(4)] = chance.choice((math.nan, -1.0, 2.0, 0.5))
            self._order(_mavlink.MAV_CMD_CAMERA_TRACK_RECTANGLE, *corners)
        self._station.send_bytes(chance.randbytes(chance.randint(1, 300)))
        self._order(chance.choice(ORDERS), 0.0)
        self._station.received.clear()

    def _order(self, command: int, *values: float) -> None:
        """Send a command over MAVLink and wait until it is acknowledged."""
        self._driver.requests["MAVLink"] += 1
        self._station.command(command, *values)
