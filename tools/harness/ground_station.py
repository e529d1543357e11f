# SPDX-License-Identifier: Apache-2.0
"""A ground station that speaks MAVLink through pymavlink's own connection, and a bad link."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pymavlink import mavutil

from tools.harness import HarnessError
from tracker_ros.mavlink.dialect import load_dialect

d = load_dialect()
CAMERA = (1, 100)
_TRIES = 30


def free_port() -> int:
    """Return a UDP port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class GroundStation:
    """Sends commands until they are acknowledged, as ground stations do.

    Args:
        port: The camera's UDP port.
        system: Its own system id.
        busy: Called while it waits.
        again_s: Seconds after which it sends a command again. An acknowledgement does not say to
            which copy it belongs, so on a good link be patient.
    """

    def __init__(
        self,
        port: int,
        system: int = 255,
        busy: Callable[[], Any] = lambda: time.sleep(0.01),
        again_s: float = 10.0,
    ) -> None:
        # It opens MAVLink 1 and changes to MAVLink 2 with the first packet of the camera.
        self.link = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}",
            source_system=system,
            source_component=190,
            dialect="common",
        )
        self.busy = busy
        self.again_s = again_s
        self.received: list[Any] = []
        self.beat()

    def close(self) -> None:
        """Leave."""
        self.link.close()

    def beat(self) -> None:
        """Show that it is there."""
        self._beaten = time.monotonic()
        self.link.mav.heartbeat_send(
            d.MAV_TYPE_GCS, d.MAV_AUTOPILOT_INVALID, 0, 0, d.MAV_STATE_ACTIVE
        )

    def send_bytes(self, data: bytes) -> None:
        """Send what is no message."""
        self.link.write(data)

    def listen(self) -> None:
        """Take what has come, and show each second that it is there."""
        if time.monotonic() - self._beaten > 1.0:
            self.beat()
        while (message := self.link.recv_msg()) is not None:
            self.received.append(message)

    def take(self, kind: str) -> list[Any]:
        """Return and forget the messages of a kind."""
        self.listen()
        found = [m for m in self.received if m.get_type() == kind]
        self.received = [m for m in self.received if m.get_type() != kind]
        return found

    def until(
        self,
        kind: str,
        fits: Callable[[Any], Any] = lambda message: True,
        patience_s: float = 60.0,
    ) -> Any:
        """Wait for a message of a kind. Returns it; raises HarnessError if none comes."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            for message in self.take(kind):
                if fits(message):
                    return message
            self.busy()
        raise HarnessError(f"no {kind} within {patience_s:g} s")

    def command(self, number: int, *params: float) -> int:
        """Send a command again and again until it is decided. Returns the result.

        Raises:
            HarnessError: It was never acknowledged.
        """
        full = [*map(float, params), *[0.0] * (7 - len(params))]
        for confirmation in range(_TRIES):
            self.link.mav.command_long_send(*CAMERA, number, confirmation % 256, *full)
            end = time.monotonic() + self.again_s
            while time.monotonic() < end:
                for ack in self.take("COMMAND_ACK"):
                    if ack.command == number and ack.result != d.MAV_RESULT_IN_PROGRESS:
                        return ack.result
                self.busy()
        raise HarnessError(f"command {number} was never acknowledged")


class BadLink:
    """A relay between two UDP ports that loses, doubles, damages and reorders packets.

    Args:
        port: Where it relays to.
        seed: Of its chance.
    """

    def __init__(self, port: int, seed: int = 1) -> None:
        self.lost = self.doubled = self.damaged = self.delayed = 0
        self._chance = random.Random(seed)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back.connect(("127.0.0.1", port))
        self._station: Any = None
        self._held: dict[socket.socket, bytes] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._relay, args=(source,))
            for source in (self._front, self._back)
        ]
        for sock in (self._front, self._back):
            sock.settimeout(0.1)
        for thread in self._threads:
            thread.start()

    @property
    def port(self) -> int:
        """Where stations speak to."""
        return self._front.getsockname()[1]

    def close(self) -> None:
        """Stop relaying."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._front.close()
        self._back.close()

    def _relay(self, source: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                data, address = source.recvfrom(2048)
            except (TimeoutError, ConnectionError):
                continue
            if source is self._front:
                self._station = address
            fate = self._chance.random()
            if fate < 0.2:
                self.lost += 1
            elif fate < 0.3:
                self.doubled += 1
                self._pass(source, data)
                self._pass(source, data)
            elif fate < 0.4:
                self.damaged += 1
                place = self._chance.randrange(len(data))
                self._pass(source, data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
            elif fate < 0.5 and source not in self._held:
                self.delayed += 1
                self._held[source] = data  # until the next packet has overtaken it
                continue
            else:
                self._pass(source, data)
            if source in self._held:
                self._pass(source, self._held.pop(source))

    def _pass(self, source: socket.socket, data: bytes) -> None:
        if source is self._front:
            self._back.send(data)
        elif self._station is not None:
            self._front.sendto(data, self._station)
