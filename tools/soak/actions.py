# SPDX-License-Identifier: Apache-2.0
"""What camera and operator do to the tracker during a soak, each action by chance."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from rclpy.duration import Duration
from rclpy.time import Time
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tools.harness.ground_station import GroundStation
from tools.harness.operator import ACTIVE, INACTIVE, UNCONFIGURED, selection
from tools.harness.program import Program
from tools.soak.camera import ENCODINGS, FRAME_ID, JUMPS_S, SIZES
from tools.soak.doors import Doors
from tools.soak.driver import Driver
from tracker_interfaces.srv import SelectTarget
from tracker_ros import DEFAULT_MODEL

OTHER_MODEL = "trdimp_tiny"
MAX_TARGETS = 4
FLOOD = 100
WRONG_CLOCKS_S = (0.9, 0.9, 0.3, -0.3, -3.0, 3600.0)
RATES_HZ = (5.0, 15.0, 30.0, 30.0, 60.0)
REFUSED_SETTINGS: tuple[tuple[str, Any], ...] = (
    ("score_found", 2.0), ("score_found", math.nan), ("lost_after", -1.0),
    ("buffer_seconds", "many"), ("debug_score_encoding", "purple"),
    ("model", OTHER_MODEL), ("autostart", False), ("device", "toaster"),
)  # fmt: skip


class Actions:
    """Does one thing at a time to the tracker: first each once, then by chance.

    Args:
        driver: Camera and operator.
        chance: Decides everything.
        command: File that tells the model how to break; see `tools.harness.breakable`.
        listener: A program that listens to the tracker, and may be stopped.
        station: A ground station in front of the tracker's MAVLink bridge.
    """

    def __init__(
        self,
        driver: Driver,
        chance: random.Random,
        command: Path,
        listener: Program,
        station: GroundStation,
    ) -> None:
        self._driver = driver
        self._command = command
        self._listener = listener
        self._camera = driver.camera
        self._chance = chance
        doors = Doors(driver, chance, station, self._any_selection)
        weighted: list[tuple[Callable[[], None], float]] = [
            (self.select, 14), (self.select_nonsense, 4), (self.select_several, 3),
            (self.select_by_topic, 3),
            (doors.select_detection, 3), (doors.fly, 3), (doors.measure, 4), (doors.compress, 0.5),
            (self.flood, 1), (self.select_with_wrong_clock, 2), (self.break_model, 2),
            (self.stall_listener, 1),
            (self.clear, 2), (self.remove, 2), (self.pause, 2), (self.burst, 3),
            (self.stall, 2), (self.jump, 3), (self.resize, 3), (self.break_images, 5),
            (self.change_rate, 2), (self.look, 2), (self.set_parameters, 3),
            (self.set_nonsense, 2), (self.wrong_transition, 1), (self.deactivate, 2),
            (self.reconfigure, 0.5), (self.change_model, 0.5), (self.fail_to_load, 0.5),
        ]  # fmt: skip
        self._actions, self._weights = zip(*weighted, strict=True)
        self._untried = list(self._actions)

    @property
    def all_tried(self) -> bool:
        """Whether each action has been done once."""
        return not self._untried

    def do_one(self) -> str:
        """Do the next action. Returns its name."""
        if self._untried:
            action = self._untried.pop()
        else:
            (action,) = self._chance.choices(self._actions, self._weights)
        action()
        return str(action.__name__)

    def select(self) -> None:
        """Select the target on one of the last images, and follow it for a while."""
        self._ask(self._driver.selector, self._selection())
        self._driver.spin(self._chance.uniform(0.0, 1.0))

    def select_nonsense(self) -> None:
        """Select with one thing wrong."""
        self._ask(self._driver.selector, self._nonsense())

    def select_several(self) -> None:
        """Select one target after the other, up to four that are followed together.

        Never more: for each number of targets the network's libraries keep what they have
        prepared, some 5 MiB, so a new number near the end would look like a leak.
        """
        for place in range(MAX_TARGETS):
            request = self._selection()
            request.append = place > 0
            self._ask(self._driver.selector, request)
            self._driver.spin(0.4)

    def select_by_topic(self) -> None:
        """Select by the topic, well or badly; it gives no answer."""
        request = self._any_selection()
        self._driver.boxes.publish(Detection2D(header=request.header, bbox=request.bbox))

    def clear(self) -> None:
        """Clear all targets."""
        self._driver.clear()

    def remove(self) -> None:
        """Remove a target, or one that does not exist."""
        ids = (self._driver.status.target_id, "no such target", "")
        self._driver.remove(self._chance.choice(ids))

    def pause(self) -> None:
        """Pause, select meanwhile, resume."""
        self._driver.enable(False)
        self._driver.spin(self._chance.uniform(0.0, 1.0))
        self._ask(self._driver.selector, self._selection())
        self._driver.enable(True)

    def burst(self) -> None:
        """Send up to a dozen requests at once."""
        driver = self._driver
        possible: list[tuple[Any, Callable[[], Any]]] = [
            (driver.selector, self._selection),
            (driver.selector, self._nonsense),
            (driver.clearer, Trigger.Request),
            (driver.enabler, lambda: SetBool.Request(data=True)),
        ]
        picked = self._chance.choices(possible, k=self._chance.randint(2, 12))
        driver.call_all(*((client, make()) for client, make in picked))

    def flood(self) -> None:
        """Send a hundred requests at once that add a target; leave no more than usual."""
        request = self._selection()
        request.append = True
        self._driver.call_all(*[(self._driver.selector, request)] * FLOOD)
        self._driver.clear()

    def select_with_wrong_clock(self) -> None:
        """Select by topic for a second, on stamps of a clock that is ahead or behind."""
        wrong = Duration(seconds=self._chance.choice(WRONG_CLOCKS_S))
        for _ in range(10):
            request = self._selection()
            stamp = Time.from_msg(self._driver.node.get_clock().now().to_msg())
            request.header.stamp = (stamp + wrong).to_msg()
            self._driver.boxes.publish(Detection2D(header=request.header, bbox=request.bbox))
            self._driver.spin(0.1)

    def break_model(self) -> None:
        """Make the model fail, or return nonsense, for some images."""
        self._ask(self._driver.selector, self._selection())
        self._command.write_text(self._chance.choice(("raise", "nan", "score")))
        self._driver.spin(self._chance.uniform(0.3, 1.5))
        self._command.write_text("")

    def stall_listener(self) -> None:
        """Stop a program that listens to everything, and let it go on."""
        self._listener.send(signal.SIGSTOP)
        self._driver.spin(self._chance.uniform(0.5, 3.0))
        self._listener.send(signal.SIGCONT)

    def stall(self) -> None:
        """Send no images for a while."""
        self._camera.stalled = True
        self._driver.spin(self._chance.uniform(0.3, 2.5))
        self._camera.stalled = False

    def jump(self) -> None:
        """Set the camera's clock."""
        self._camera.jump(self._chance.choice(JUMPS_S))
        self._driver.spin(0.2)

    def resize(self) -> None:
        """Change resolution or encoding in mid-stream."""
        self._camera.show_as(self._chance.choice(SIZES), self._chance.choice(ENCODINGS))

    def break_images(self) -> None:
        """Send some broken images."""
        self._camera.faulty = self._chance.randint(1, 12)

    def change_rate(self) -> None:
        """Change the rate of images."""
        self._driver.set_rate(self._chance.choice(RATES_HZ))

    def look(self) -> None:
        """Subscribe to the debug images, or stop."""
        self._driver.look(self._chance.random() < 0.5)

    def set_parameters(self) -> None:
        """Set parameters that may change at any time."""
        self._driver.set(
            score_lost=0.0,
            score_found=self._chance.uniform(0.3, 0.6),
            lost_after=self._chance.uniform(0.0, 3.0),
            buffer_seconds=self._chance.choice((0.0, 1.0, 2.0, 5.0)),
            buffer_megabytes=self._chance.choice((1.0, 32.0, 64.0)),
            debug_rate=self._chance.uniform(0.0, 30.0),
            debug_scale=self._chance.uniform(0.1, 1.5),
            debug_score_encoding=self._chance.choice(("rgb8", "32FC1")),
        )

    def set_nonsense(self) -> None:
        """Set a parameter to a value, or at a moment, that must be refused."""
        name, value = self._chance.choice(REFUSED_SETTINGS)
        if any(accepted for accepted, _ in self._driver.set(**{name: value})):
            self._driver.silent_refusals.append(f"{name} became {value!r}, expected a refusal")

    def wrong_transition(self) -> None:
        """Request a transition that does not begin in the present state."""
        self._driver.change(
            self._chance.choice((Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP))
        )

    def deactivate(self) -> None:
        """Deactivate, send requests meanwhile, activate."""
        self._driver.bring(INACTIVE)
        self._ask_in_vain()
        self._driver.bring(ACTIVE)

    def reconfigure(self) -> None:
        """Free the model and load it again."""
        self._load(DEFAULT_MODEL)

    def change_model(self) -> None:
        """Follow with another model for a while."""
        self._load(OTHER_MODEL)
        self.select_several()
        self._driver.spin(self._chance.uniform(0.0, 1.0))
        self._load(DEFAULT_MODEL)

    def fail_to_load(self) -> None:
        """Request a model that does not exist, and then one whose weights do not."""
        self._driver.bring(UNCONFIGURED)
        self._driver.set(model="no_such_model")
        self._driver.set(weights="no_such_file.safetensors")
        self._driver.change(Transition.TRANSITION_CONFIGURE)
        self._driver.change(Transition.TRANSITION_ACTIVATE)
        self._ask_in_vain()
        self._driver.bring(UNCONFIGURED)
        self._driver.set(weights="")
        self._load(DEFAULT_MODEL)

    def _load(self, model: str) -> None:
        self._driver.bring(UNCONFIGURED)
        self._ask_in_vain()
        self._driver.set(model=model)
        self._driver.change(Transition.TRANSITION_CONFIGURE)
        self._ask_in_vain()
        self._driver.bring(ACTIVE)

    def _ask(self, client: Any, request: Any) -> None:
        self._driver.call(client, request)

    def _ask_in_vain(self) -> None:
        """Send requests that cannot be granted now and must be answered all the same."""
        driver = self._driver
        driver.call_all(
            (driver.selector, self._selection()),
            (driver.clearer, Trigger.Request()),
            (driver.enabler, SetBool.Request(data=True)),
        )

    def _any_selection(self) -> SelectTarget.Request:
        """Return a selection that may have one thing wrong."""
        return self._selection() if self._chance.random() < 0.7 else self._nonsense()

    def _selection(self) -> SelectTarget.Request:
        """Select the target on one of the last images; now and then a moved box on the newest."""
        shown = self._camera.shown
        if not shown:
            return selection((200.0, 150.0, 80.0, 60.0))
        if self._chance.random() < 0.2:
            x, y, w, h = shown[-1].box
            moved = x + self._chance.uniform(-50, 50)
            return selection((moved, y, w * self._chance.uniform(0.3, 2.0), h))
        seen = self._chance.choice(shown)
        return selection(seen.box, seen.header, "soaked")

    def _nonsense(self) -> SelectTarget.Request:
        """Return a request with one thing wrong."""
        request = self._selection()
        box = request.bbox
        faults: list[tuple[Any, str, Any]] = [
            (box, "size_x", -5.0), (box, "size_y", 0.0), (box, "size_x", 1.0),
            (box, "size_x", 1e9), (box, "size_y", math.nan),
            (box.center, "theta", 0.5), (box.center.position, "x", math.inf),
            (box.center.position, "y", -1e5), (box.center.position, "x", math.nan),
            (request, "header", Header(frame_id="elsewhere")),
            (request, "header", Header(frame_id=FRAME_ID)),
        ]  # fmt: skip
        if self._chance.random() < 0.3:
            stamp = Header(frame_id=FRAME_ID)
            stamp.stamp.sec = self._chance.choice((1, -7, 2**31 - 1))
            stamp.stamp.nanosec = self._chance.choice((0, 2**32 - 1))
            request.header = stamp
        else:
            setattr(*self._chance.choice(faults))
        return request
