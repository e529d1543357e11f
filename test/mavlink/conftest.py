# SPDX-License-Identifier: Apache-2.0
"""A camera component whose peers are lists, and a ground station that speaks to it."""

from __future__ import annotations

import itertools

import pytest

from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.following.target_state import TargetState
from tracker_ros.mavlink.camera import CameraComponent
from tracker_ros.mavlink.camera_messages import CameraSettings
from tracker_ros.mavlink.dialect import load_dialect
from tracker_ros.mavlink.tracking_messages import TrackView

d = load_dialect()
OK = SelectionCode.OK
SIZE = (640, 480)


class Recorder:
    """A peer that keeps what it is sent, as a receiver would decode it."""

    def __init__(self, name="peer"):
        self.name = name
        self.received = []
        self._encoder = d.MAVLink(None, srcSystem=1, srcComponent=100)
        self._decoder = d.MAVLink(None)

    def send(self, message):
        (decoded,) = self._decoder.parse_buffer(message.pack(self._encoder))
        self.received.append(decoded)

    def take(self, kind):
        """Return and forget the messages of a kind."""
        found = [m for m in self.received if m.get_type() == kind]
        self.received = [m for m in self.received if m.get_type() != kind]
        return found


class Tracker:
    """A tracker that notes what it is asked, and answers with `code` unless it holds back."""

    def __init__(self):
        self.boxes = []
        self.clears = 0
        self.code = OK
        self.hold = False
        self.held = []

    def select(self, box, answer):
        self.boxes.append(box)
        outcome = Outcome(self.code, "because", str(len(self.boxes)))
        if self.hold:
            self.held.append(lambda: answer(outcome))
        else:
            answer(outcome)

    def clear(self, answer):
        self.clears += 1
        answer(Outcome(self.code, "because"))


class Bench:
    """The camera, its tracker, two ground stations and the time."""

    def __init__(self, **settings):
        self.tracker = Tracker()
        self.first, self.second = Recorder("first"), Recorder("second")
        self.complaints = []
        self.now = 100.0
        self.camera = CameraComponent(
            CameraSettings(**settings),
            self.tracker,
            lambda: [self.first, self.second],
            self.complaints.append,
            start=self.now,
        )
        self._sequences = {}

    def see(self, state=TargetState.TRACKING, box=(160.0, 120.0, 64.0, 48.0), target_id="1"):
        """The tracker reports on an image."""
        view = TrackView(state, box, SIZE, target_id, alive=True)
        self.camera.update(view, self.now)

    def hear(self, message, peer=None, system=255, component=190, sequence=None):
        """A message comes from a station."""
        peer = peer or self.first
        count = self._sequences.setdefault((peer, system, component), itertools.count())
        encoder = d.MAVLink(None, srcSystem=system, srcComponent=component)
        encoder.seq = next(count) % 256 if sequence is None else sequence
        (decoded,) = d.MAVLink(None).parse_buffer(message.pack(encoder))
        self.camera.receive(decoded, peer, self.now)

    def command(self, number, *params, target=(1, 100), confirmation=0, **sender):
        """A station sends COMMAND_LONG. Returns the results that it is acknowledged with."""
        full = [*map(float, params), *[0.0] * (7 - len(params))]
        self.hear(d.MAVLink_command_long_message(*target, number, confirmation, *full), **sender)
        peer = sender.get("peer") or self.first
        return [ack.result for ack in peer.take("COMMAND_ACK") if ack.command == number]

    def track(self, *corners, **options):
        """A station sends a rectangle."""
        corners = corners or (0.25, 0.25, 0.5, 0.5)
        return self.command(d.MAV_CMD_CAMERA_TRACK_RECTANGLE, *corners, **options)

    def wait(self, seconds, step=0.05):
        """Time passes."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.camera.tick(self.now)


@pytest.fixture
def make_bench():
    return Bench


@pytest.fixture
def bench():
    bench = Bench()
    bench.see(TargetState.IDLE, None, "")
    return bench
