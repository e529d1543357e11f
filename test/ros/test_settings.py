# SPDX-License-Identifier: Apache-2.0
"""Parameters that change all the time while targets come and go: one thread owns each datum.

The model is held up by chance and threads are switched often, so that a datum with two owners
would soon be seen half changed.
"""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest
from delegating_tracker import DelegatingTracker
from rclpy.parameter import Parameter

from tracker_interfaces.msg import TargetStatus
from tracker_ros.tracker import TrackResult

CHANGES = 500
STRICT = {"score_found": 0.9, "score_lost": 0.8, "lost_after": 3600.0}
LENIENT = {"score_found": 0.2, "score_lost": 0.1, "lost_after": 3600.0}


class Delayed(DelegatingTracker):
    """Finds every target where it was, with a score of 0.5, after a pause by chance."""

    chance = random.Random(7)

    def initialize(self, image, box):
        self.box = tuple(map(float, box))
        time.sleep(self.chance.uniform(0.0, 0.002))

    def fork(self):
        time.sleep(self.chance.uniform(0.0, 0.002))
        return Delayed(self.inner)

    def track(self, image):
        time.sleep(self.chance.uniform(0.0, 0.002))
        return TrackResult(self.box, 0.5, None, self.box)


@pytest.fixture
def quick_switches():
    """Threads take turns ten times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    yield
    sys.setswitchinterval(usual)


def test_settings_change_while_targets_come_and_go(local, local_tracker, quick_switches):
    stage, probe = local

    def faults():
        probe.diagnostics.clear()
        values = probe.until(lambda: probe.diagnosis("images"), "diagnostics").values
        return next(int(pair.value) for pair in values if pair.key == "frames faults")

    before = faults()
    stage.inner = Delayed(stage.inner)

    def change(values):
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        return local_tracker.node.set_parameters_atomically(parameters).successful

    accepted = []
    changing = threading.Thread(
        target=lambda: accepted.extend(change((LENIENT, STRICT)[i % 2]) for i in range(CHANGES))
    )
    changing.start()
    selected = 0
    while changing.is_alive():
        header = probe.show().header
        assert probe.select(probe.scene.box(1), header, append=selected % 5 > 0).success
        selected += 1
        if selected % 7 == 0:
            assert probe.clear().success
    assert accepted == [True] * CHANGES
    assert selected > 1
    for values, state in ((STRICT, TargetStatus.UNCERTAIN), (LENIENT, TargetStatus.TRACKING)):
        assert change(values)
        for append in (False, True):
            header = probe.show().header
            assert probe.select(probe.scene.box(1), header, append=append).success
        status = probe.show()
        array = probe.until(lambda h=status.header: probe.array_of(h), "the status of each")
        assert [s.state for s in array.statuses] == [state, state], "the newest thresholds"
    assert faults() == before
