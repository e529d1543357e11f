# SPDX-License-Identifier: Apache-2.0
"""Requests in a bag to follow a target: detections, and recorded calls of ``select_target``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker_ros.following.selection import Selection
from tracker_ros.following.selection_messages import selection_from, selection_from_detection
from tracker_ros.io.bag_reader import BagReader

DETECTION = "vision_msgs/msg/Detection2D"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
_REQUEST = "tracker_interfaces/srv/SelectTarget_Request"
_EVENT = "tracker_interfaces/srv/SelectTarget_Event"
SELECTION_TYPES = (DETECTION, _REQUEST, _EVENT)
_REQUESTED = (0, 1)  # ServiceEventInfo: a request was sent, or received
_NAMES = {"selection": False, "selection_append": True}


def find_selections(reader: BagReader) -> tuple[tuple[str, bool], ...]:
    """Return the topics by which a node is asked to follow a target, and whether each adds one.

    They are those with the names of the node, and calls of ``select_target`` that ROS recorded
    (service introspection).
    """
    found = []
    for topic in reader.topics.values():
        name = topic.name.rpartition("/")[2]
        if topic.kind == DETECTION and name in _NAMES:
            found.append((topic.name, _NAMES[name]))
        elif topic.kind in (_REQUEST, _EVENT):
            found.append((topic.name, False))
    return tuple(sorted(found))


class SelectionReader:
    """Reads requests from messages; `appends` tells whether detections on a topic add a target."""

    def __init__(self, appends: Mapping[str, bool]) -> None:
        self._appends = appends
        self._seen: set[tuple[bytes, int]] = set()

    def read(self, topic: str, message: Any) -> Selection | None:
        """Return the request of a message; None if it holds none that is new.

        Raises SelectionRefused if its box is rotated.
        """
        if hasattr(message, "results"):
            return selection_from_detection(message, self._appends[topic])
        if hasattr(message, "info"):
            info = message.info
            call = (bytes(info.client_gid), int(info.sequence_number))
            if info.event_type not in _REQUESTED or not message.request or call in self._seen:
                return None
            self._seen.add(call)
            message = message.request[0]
        return selection_from(message.header, message.bbox, message.label, bool(message.append))
