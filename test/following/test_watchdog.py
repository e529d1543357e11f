# SPDX-License-Identifier: Apache-2.0
"""Tests of the watchdog, with a clock that the test moves."""

from __future__ import annotations

import threading

import pytest

from tracker_ros.following.watchdog import Watchdog
from tracker_ros.following.worker import Worker


class Bench:
    """A worker that can be held up in a job, and its watchdog."""

    def __init__(self):
        self.now = 0.0
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.worker = Worker(lambda frames: None, lambda: None, lambda: (), self.pass_over)
        self.worker.start()
        self.watchdog = Watchdog(self.worker, clock=lambda: self.now)

    def pass_over(self, error):
        """Take no notice of a fault."""

    def hold(self):
        """Hold the worker up until `gate` is set."""

        def job():
            self.entered.set()
            self.gate.wait(60)

        self.worker.post(job)
        assert self.entered.wait(60)

    def check(self, seconds, turn_s=0.5, **options):
        """Check twice a second, or with other turns; return what each check says."""
        told = []
        for _ in range(round(seconds / turn_s)):
            self.now += turn_s
            told.append(self.watchdog.check(10.0, **options))
        return told


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.gate.set()
    made.worker.stop(lambda: None, 60)


def test_a_step_that_takes_too_long_is_told(bench):
    bench.hold()
    told = bench.check(11.0)
    assert not any(told[:20])
    assert all(told[20:])


def test_a_step_that_ends_in_time_is_none_of_its_business(bench):
    bench.hold()
    assert not any(bench.check(9.0))
    bench.gate.set()
    assert bench.worker.run_and_wait(lambda: None, 60)
    assert not any(bench.check(30.0))


def test_loading_may_take_its_time_and_counts_for_nothing_afterwards(bench):
    bench.hold()
    assert not any(bench.check(60.0, patient=True))
    assert not any(bench.check(9.0))
    assert any(bench.check(2.0))


def test_no_limit(bench):
    bench.hold()
    assert bench.watchdog.check(0.0) == ""
    bench.now += 1000.0
    assert bench.watchdog.check(0.0) == ""


def test_time_in_which_the_whole_process_stood_still_does_not_count(bench):
    bench.hold()
    assert not any(bench.check(5000.0, turn_s=1000.0))


def test_a_thread_that_has_died_is_told_at_once(bench):
    def end():
        raise SystemExit("the library gave up")

    assert bench.worker.run_and_wait(end, 60)
    assert bench.worker.stop(lambda: None, 60)
    assert "the library gave up" in bench.watchdog.check(0.0)
