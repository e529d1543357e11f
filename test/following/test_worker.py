# SPDX-License-Identifier: Apache-2.0
"""Tests of the worker's thread, its mailbox and its jobs."""

from __future__ import annotations

import threading

import pytest

from tracker_ros.following.worker import Worker


class Bench:
    """A worker whose every step can be seen, and whose handling of frames can be held up."""

    def __init__(self) -> None:
        self.handled: list[object] = []
        self.passes: list[int] = []
        self.errors: list[BaseException] = []
        self.steps_left = 0
        self.idle = threading.Event()
        self.may_handle = threading.Event()
        self.may_handle.set()
        self.handling = threading.Event()
        self.worker: Worker[object] = Worker(
            self._handle, self.idle.set, self._busy, self.errors.append, idle_period_s=0.01
        )
        self.worker.start()

    def _handle(self, frames: list[object]) -> None:
        self.handling.set()
        assert self.may_handle.wait(10)
        for frame in frames:
            if isinstance(frame, Exception):
                raise frame
        self.handled += frames
        self.passes.append(len(frames))

    def _busy(self) -> tuple[object, ...]:
        if not self.steps_left:
            return ()
        self.steps_left -= 1
        self.handled.append("step")
        return (None,)

    def settle(self) -> None:
        """Wait until there is nothing to do."""
        self.worker.run_and_wait(lambda: None, 60)
        self.idle.clear()
        assert self.idle.wait(60)


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.may_handle.set()
    assert made.worker.stop(lambda: None, 10)


def test_the_mailbox_holds_only_the_newest(bench):
    bench.may_handle.clear()
    bench.worker.put("first")
    assert bench.handling.wait(10)
    for i in range(50):
        bench.worker.put(i)
    bench.may_handle.set()
    bench.settle()
    assert bench.handled == ["first", 49]


def test_the_newest_of_each_camera_are_handled_together(bench):
    bench.may_handle.clear()
    bench.worker.put("first")
    assert bench.handling.wait(10)
    for frame, slot in ((1, "left"), (2, "front"), (3, "left"), (4, "rear")):
        bench.worker.put(frame, slot)
    bench.may_handle.set()
    bench.settle()
    assert bench.handled == ["first", 3, 2, 4]
    assert bench.passes == [1, 3]


def test_a_camera_with_own_work_does_not_stop_another(bench):
    bench.may_handle.clear()
    bench.worker.put("first")
    assert bench.handling.wait(10)
    bench.steps_left = 2
    bench.worker.put("own", None)
    bench.worker.put("other", "left")
    bench.may_handle.set()
    bench.settle()
    assert bench.handled == ["first", "step", "other", "step", "own"]


def test_a_falsy_frame_is_a_frame(bench):
    bench.worker.put(0)
    bench.settle()
    assert bench.handled == [0]


def test_jobs_go_before_frames_and_in_order(bench):
    bench.may_handle.clear()
    bench.worker.put("first")
    assert bench.handling.wait(10)
    bench.worker.put("second")
    for name in "ab":
        assert bench.worker.post(lambda name=name: bench.handled.append(name))
    bench.may_handle.set()
    bench.settle()
    assert bench.handled == ["first", "a", "b", "second"]


def test_own_work_goes_before_the_mailbox(bench):
    bench.worker.run_and_wait(lambda: setattr(bench, "steps_left", 2), 10)
    bench.worker.put("frame")
    bench.settle()
    assert bench.handled == ["step", "step", "frame"]


def test_an_exception_is_told_and_the_thread_goes_on(bench):
    bench.worker.put(ValueError("frame"))
    bench.settle()
    assert bench.worker.run_and_wait(lambda: 1 / 0, 10)
    bench.worker.put("next")
    bench.settle()
    assert [type(error) for error in bench.errors] == [ValueError, ZeroDivisionError]
    assert bench.handled == ["next"]


def test_stop_drops_what_waits_and_does_the_last_job(bench):
    bench.may_handle.clear()
    bench.worker.put("first")
    assert bench.handling.wait(10)
    bench.worker.put("second")
    bench.worker.post(lambda: bench.handled.append("job"))
    assert not bench.worker.stop(lambda: bench.handled.append("last"), 0.01), "it is still busy"
    assert not bench.worker.post(lambda: None)
    bench.may_handle.set()
    assert bench.worker.stop(lambda: bench.handled.append("later"), 10)
    assert bench.handled == ["first", "last"]


def test_a_named_job_replaces_the_one_that_waits(bench):
    bench.may_handle.clear()
    bench.worker.put("first")
    assert bench.handling.wait(10)
    for place in range(1000):
        bench.worker.post(lambda place=place: bench.handled.append(place), "settings")
    bench.may_handle.set()
    bench.settle()
    assert bench.handled == ["first", 999]


@pytest.mark.parametrize("death", [SystemExit(3), KeyboardInterrupt()])
def test_a_thread_that_is_ended_says_so_and_takes_no_more_jobs(bench, death):
    def end():
        raise death

    assert bench.worker.run_and_wait(end, 10)
    assert bench.worker.stop(lambda: None, 10)
    assert bench.worker.death is death
    assert bench.worker.step is None
    assert not bench.worker.post(lambda: None)


def test_a_report_that_fails_does_not_end_the_thread():
    handled = []

    def fail(error):
        raise RuntimeError("no room to report it")

    worker = Worker(handled.append, lambda: None, lambda: (), fail)
    worker.start()
    worker.run_and_wait(lambda: 1 / 0, 10)
    assert worker.run_and_wait(lambda: handled.append("job"), 10)
    assert worker.stop(lambda: None, 10)
    assert handled == ["job"]
    assert worker.death is None


def test_waiting_for_a_job_has_an_end(bench):
    gate = threading.Event()
    assert not bench.worker.run_and_wait(lambda: gate.wait(10), 0.01)
    gate.set()
