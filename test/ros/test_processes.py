# SPDX-License-Identifier: Apache-2.0
"""Trackers as processes: how they end, and that they can live beside each other."""

from __future__ import annotations

import signal

import pytest
from conftest import ON_TORCH

from tracker_interfaces.msg import TargetStatus


@pytest.fixture
def start(run_program, make_probe):
    """Starts a tracker in a namespace; returns its process and the probe beside it."""
    probes = {}

    def run(namespace):
        process = run_program("track", "--ros-args", "-r", f"__ns:={namespace}", *ON_TORCH)
        if namespace not in probes:
            probes[namespace] = make_probe(namespace)
        probes[namespace].statuses.clear()
        return process, probes[namespace]

    return run


def test_a_tracker_that_dies_can_be_started_again_and_ends_with_sigterm(start):
    first, probe = start("/again")
    probe.connect()
    probe.start_following()
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    second, _ = start("/again")
    probe.until(
        lambda: probe.statuses and probe.statuses[-1].state == TargetStatus.IDLE,
        "the end of loading",
    )
    assert probe.show().state == TargetStatus.IDLE
    target_id = probe.start_following()
    assert probe.follow(2).id == target_id
    assert second.stop(signal.SIGTERM) == 0
    assert "Traceback" not in second.output
    assert "rror" not in second.output


def test_two_trackers_in_two_namespaces_and_an_end_with_sigint(start, probe):
    process, left = start("/left")
    left.connect()
    right = probe
    right.place = 50
    left.start_following("one")
    for _ in range(3):
        assert right.show().state == TargetStatus.IDLE
        left.show()
    right.start_following("two")
    for each, label in ((left, "one"), (right, "two")):
        target = each.follow(3)
        assert target.results[0].hypothesis.class_id == label
        assert each.follows(target)
    assert right.clear().success
    assert right.show().state == TargetStatus.IDLE
    assert left.follow(1).results[0].hypothesis.class_id == "one"
    assert process.stop(signal.SIGINT) == 0
    assert "Traceback" not in process.output
    assert "rror" not in process.output
