# SPDX-License-Identifier: Apache-2.0
"""What camera and operator do to the tracker, each deed by chance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import BoundingBox2D, Detection2D

from tools.soak.camera import ENCODINGS, FRAME_ID, JUMPS_S, SIZES
from tools.soak.driver import ACTIVE, INACTIVE, UNCONFIGURED, Driver
from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros import DEFAULT_MODEL
from tracker_ros.nodes.messages import bounding_box_of

OTHER_MODEL = "trdimp_tiny"
MAX_TARGETS = 4
RATES_HZ = (5.0, 15.0, 30.0, 30.0, 60.0)


class Misdeeds:
    """Does one thing at a time to the tracker: first each of them, then by chance.

    Args:
        driver: Camera and operator.
        chance: Decides everything.
    """

    def __init__(self, driver: Driver, chance: random.Random) -> None:
        self._driver = driver
        self._chance = chance
        weighted: list[tuple[Callable[[], None], float]] = [
            (self.select, 14), (self.select_nonsense, 4), (self.select_several, 3),
            (self.select_by_topic, 3),
            (self.clear, 2), (self.remove, 2), (self.pause, 2), (self.burst, 3),
            (self.stall, 2), (self.jump, 3), (self.resize, 3), (self.break_images, 5),
            (self.change_rate, 2), (self.look, 2), (self.set_parameters, 3),
            (self.set_nonsense, 2), (self.wrong_transition, 1), (self.deactivate, 2),
            (self.reconfigure, 0.5), (self.change_model, 0.5), (self.fail_to_load, 0.5),
        ]  # fmt: skip
        self._deeds, self._weights = zip(*weighted, strict=True)
        self._untried = list(self._deeds)

    @property
    def all_tried(self) -> bool:
        """Whether each of them has been done."""
        return not self._untried

    def do_one(self) -> str:
        """Do one of them; its name."""
        if self._untried:
            deed = self._untried.pop()
        else:
            (deed,) = self._chance.choices(self._deeds, self._weights)
        deed()
        return str(deed.__name__)

    def select(self) -> None:
        """Select the target on one of the last images, and let it be followed for a while."""
        self._driver.ask((self._driver.selector, self._selection()))
        self._driver.spin(self._chance.uniform(0.0, 1.0))

    def select_nonsense(self) -> None:
        """Select what nobody can follow."""
        self._driver.ask((self._driver.selector, self._nonsense()))

    def select_several(self) -> None:
        """One target after the other, up to a few that are followed together.

        Never more: for each number of targets the network's libraries keep what they have
        prepared, some 5 MiB, so that a new number in the end would look like a leak.
        """
        for place in range(MAX_TARGETS):
            request = self._selection()
            request.append = place > 0
            self._driver.ask((self._driver.selector, request))
            self._driver.spin(0.4)

    def select_by_topic(self) -> None:
        """Select by the topic, well or badly; nobody answers there."""
        request = self._selection() if self._chance.random() < 0.7 else self._nonsense()
        self._driver.selection.publish(Detection2D(header=request.header, bbox=request.bbox))

    def clear(self) -> None:
        """Clear all targets."""
        self._driver.ask((self._driver.clearer, Trigger.Request()))

    def remove(self) -> None:
        """Remove one target, one that there may be or not."""
        name = self._chance.choice((self._driver.status.target_id, "no such target", ""))
        self._driver.ask((self._driver.remover, RemoveTarget.Request(target_id=name)))

    def pause(self) -> None:
        """Pause, ask for things meanwhile, go on."""
        self._driver.ask((self._driver.enabler, SetBool.Request(data=False)))
        self._driver.spin(self._chance.uniform(0.0, 1.0))
        self._driver.ask((self._driver.selector, self._selection()))
        self._driver.ask((self._driver.enabler, SetBool.Request(data=True)))

    def burst(self) -> None:
        """Ask for many things at once."""
        driver = self._driver
        possible: list[tuple[Any, Callable[[], Any]]] = [
            (driver.selector, self._selection),
            (driver.selector, self._nonsense),
            (driver.clearer, Trigger.Request),
            (driver.enabler, lambda: SetBool.Request(data=True)),
        ]
        picked = self._chance.choices(possible, k=self._chance.randint(2, 12))
        driver.ask(*((client, make()) for client, make in picked))

    def stall(self) -> None:
        """No images for a while."""
        self._driver.camera.stalled = True
        self._driver.spin(self._chance.uniform(0.3, 2.5))
        self._driver.camera.stalled = False

    def jump(self) -> None:
        """The camera's clock is set."""
        self._driver.camera.jump(self._chance.choice(JUMPS_S))
        self._driver.spin(0.2)

    def resize(self) -> None:
        """Another resolution or encoding in mid-stream."""
        self._driver.camera.show_as(self._chance.choice(SIZES), self._chance.choice(ENCODINGS))

    def break_images(self) -> None:
        """Some images are broken."""
        self._driver.camera.ailing = self._chance.randint(1, 12)

    def change_rate(self) -> None:
        """Another rate of images."""
        self._driver.set_rate(self._chance.choice(RATES_HZ))

    def look(self) -> None:
        """Listen to the debug images, or no longer."""
        self._driver.look(self._chance.random() < 0.5)

    def set_parameters(self) -> None:
        """Change what may change at any time."""
        found = self._chance.uniform(0.3, 0.6)
        self._driver.set(
            score_lost=0.0,
            score_found=found,
            lost_after=self._chance.uniform(0.0, 3.0),
            buffer_seconds=self._chance.choice((0.0, 1.0, 2.0, 5.0)),
            buffer_megabytes=self._chance.choice((1.0, 32.0, 64.0)),
            debug_rate=self._chance.uniform(0.0, 30.0),
            debug_scale=self._chance.uniform(0.1, 1.5),
            debug_score_encoding=self._chance.choice(("rgb8", "32FC1")),
        )

    def set_nonsense(self) -> None:
        """Values and moments that must be refused."""
        name, value = self._chance.choice(
            (
                ("score_found", 2.0), ("score_found", math.nan), ("lost_after", -1.0),
                ("buffer_seconds", "many"), ("debug_score_encoding", "purple"),
                ("model", OTHER_MODEL), ("autostart", False), ("device", "toaster"),
            )
        )  # fmt: skip
        if any(self._driver.set(**{name: value})):
            self._driver.silent_refusals.append(f"{name} became {value!r}, wanted a refusal")

    def wrong_transition(self) -> None:
        """A transition that does not begin in the present state."""
        self._driver.change(
            self._chance.choice((Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP))
        )

    def deactivate(self) -> None:
        """Deactivate, ask for things meanwhile, activate."""
        self._driver.bring(INACTIVE)
        self._ask_in_vain()
        self._driver.bring(ACTIVE)

    def reconfigure(self) -> None:
        """Let go of the model and load it again."""
        self._load(DEFAULT_MODEL)

    def change_model(self) -> None:
        """Follow with another model for a while."""
        self._load(OTHER_MODEL)
        self.select_several()
        self._driver.spin(self._chance.uniform(0.0, 1.0))
        self._load(DEFAULT_MODEL)

    def fail_to_load(self) -> None:
        """Ask for a model that there is not."""
        self._driver.bring(UNCONFIGURED)
        self._driver.set(model="no_such_model")
        self._driver.change(Transition.TRANSITION_CONFIGURE)
        self._driver.change(Transition.TRANSITION_ACTIVATE)
        self._ask_in_vain()
        self._load(DEFAULT_MODEL)

    def _load(self, model: str) -> None:
        self._driver.bring(UNCONFIGURED)
        self._ask_in_vain()
        self._driver.set(model=model)
        self._driver.change(Transition.TRANSITION_CONFIGURE)
        self._ask_in_vain()
        self._driver.bring(ACTIVE)

    def _ask_in_vain(self) -> None:
        """Requests that cannot be granted now must be answered all the same."""
        self._driver.ask(
            (self._driver.selector, self._selection()),
            (self._driver.clearer, Trigger.Request()),
            (self._driver.enabler, SetBool.Request(data=True)),
        )

    def _selection(self) -> SelectTarget.Request:
        """The target on one of the last images; now and then a moved box on the newest."""
        shown = self._driver.camera.shown
        if not shown:
            return SelectTarget.Request(bbox=bounding_box_of((200.0, 150.0, 80.0, 60.0)))
        if self._chance.random() < 0.2:
            x, y, w, h = shown[-1].box
            box = (x + self._chance.uniform(-50, 50), y, w * self._chance.uniform(0.3, 2.0), h)
            return SelectTarget.Request(bbox=bounding_box_of(box))
        seen = self._chance.choice(shown)
        return SelectTarget.Request(
            header=seen.header, bbox=bounding_box_of(seen.box), label="soaked"
        )

    def _nonsense(self) -> SelectTarget.Request:
        """A request with one thing wrong."""
        request = self._selection()
        bbox: BoundingBox2D = request.bbox
        spoil: list[tuple[Any, str, Any]] = [
            (bbox, "size_x", -5.0), (bbox, "size_y", 0.0), (bbox, "size_x", 1.0),
            (bbox, "size_x", 1e9), (bbox, "size_y", math.nan),
            (bbox.center, "theta", 0.5), (bbox.center.position, "x", math.inf),
            (bbox.center.position, "y", -1e5), (bbox.center.position, "x", math.nan),
            (request, "header", Header(frame_id="elsewhere")),
            (request, "header", Header(frame_id=FRAME_ID)),
        ]  # fmt: skip
        if self._chance.random() < 0.3:
            stamp = Header(frame_id=FRAME_ID)
            stamp.stamp.sec = self._chance.choice((1, -7, 2**31 - 1))
            stamp.stamp.nanosec = self._chance.choice((0, 2**32 - 1))
            request.header = stamp
        else:
            setattr(*self._chance.choice(spoil))
        return request
