# SPDX-License-Identifier: Apache-2.0
"""Tests of the buffer of frames."""

from __future__ import annotations

import threading

import pytest

from tracker_ros.following.frames import FrameBuffer

SECOND = 1_000_000_000


def filled(stamps: list[float], seconds: float = 10.0, size: int = 1000) -> FrameBuffer[str]:
    """A buffer with one frame of 10 bytes per stamp (seconds), named by its place."""
    buffer: FrameBuffer[str] = FrameBuffer(seconds, size)
    for i, stamp in enumerate(stamps):
        buffer.add(round(stamp * SECOND), f"f{i}", 10)
    return buffer


def names(buffer: FrameBuffer[str]) -> list[str]:
    return [f.payload for f in buffer.after(-(10**18))]


def test_empty():
    buffer = filled([])
    assert buffer.newest is None
    assert buffer.oldest is None
    assert buffer.nearest(0, SECOND) is None
    assert buffer.after(0) == []
    assert (len(buffer), buffer.byte_count) == (0, 0)


def test_bounded_by_time():
    buffer = filled([0.0, 1.0, 2.0, 3.0, 3.5], seconds=2.0)
    assert names(buffer) == ["f2", "f3", "f4"]
    assert buffer.byte_count == 30


def test_bounded_by_bytes():
    buffer = filled([0.0, 1.0, 2.0, 3.0], size=25)
    assert names(buffer) == ["f2", "f3"]
    assert buffer.byte_count == 20


def test_the_newest_is_kept_however_large():
    buffer: FrameBuffer[str] = FrameBuffer(1.0, 100)
    buffer.add(0, "small", 10)
    buffer.add(1, "large", 500)
    assert names(buffer) == ["large"]
    buffer.add(2, "next", 10)
    assert names(buffer) == ["next"]
    assert buffer.byte_count == 10


def test_exact_stamp_only_without_tolerance():
    buffer = filled([1.0, 2.0])
    found = buffer.nearest(2 * SECOND)
    assert found is not None
    assert (found.payload, found.stamp_ns, found.number) == ("f1", 2 * SECOND, 2)
    assert buffer.nearest(2 * SECOND + 1) is None


@pytest.mark.parametrize(
    ("stamp", "wanted"),
    [(0.75, None), (0.95, "f0"), (1.2, "f0"), (1.5, None), (1.9, "f1"), (2.2, "f1"), (2.3, None)],
)
def test_nearest_within_the_tolerance(stamp, wanted):
    found = filled([1.0, 2.0]).nearest(round(stamp * SECOND), round(0.2 * SECOND))
    assert (found.payload if found else None) == wanted


def test_nearest_takes_the_older_of_two():
    found = filled([1.0, 2.0]).nearest(round(1.5 * SECOND), SECOND)
    assert found is not None
    assert found.payload == "f0"


def test_after_gives_the_rest_in_order():
    buffer = filled([1.0, 2.0, 3.0])
    assert [f.payload for f in buffer.after(SECOND)] == ["f1", "f2"]
    assert [f.payload for f in buffer.after(SECOND - 1)] == ["f0", "f1", "f2"]
    assert buffer.after(3 * SECOND) == []


def test_oldest_is_what_can_still_be_asked_for():
    buffer = filled([0.0, 1.0, 2.0], seconds=1.0)
    assert buffer.oldest is not None
    assert buffer.oldest.stamp_ns == SECOND


def test_a_stamp_that_jumps_back_starts_anew():
    buffer = filled([5.0, 6.0, 1.0, 1.5])
    assert names(buffer) == ["f2", "f3"]
    assert buffer.sequence == 1
    assert buffer.byte_count == 20


def test_the_same_stamp_again_replaces():
    buffer = filled([0.0, 0.0, 0.0])
    assert names(buffer) == ["f2"]
    assert buffer.byte_count == 10
    assert buffer.sequence == 0
    assert buffer.newest is not None
    assert buffer.newest.number == buffer.arrivals == 3


def test_new_limits_apply_at_once():
    buffer = filled([0.0, 1.0, 2.0, 3.0])
    buffer.set_limits(1.0, 1000)
    assert names(buffer) == ["f2", "f3"]
    with pytest.raises(ValueError, match="max_seconds is -1"):
        buffer.set_limits(-1.0, 10)
    with pytest.raises(ValueError, match="max_bytes is -5"):
        buffer.set_limits(1.0, -5)
    assert names(buffer) == ["f2", "f3"]


def test_clear():
    buffer = filled([0.0, 1.0])
    buffer.clear()
    assert (len(buffer), buffer.byte_count) == (0, 0)
    buffer.add(0, "again", 10)
    assert buffer.sequence == 0


def test_one_thread_adds_while_another_reads():
    buffer: FrameBuffer[int] = FrameBuffer(1e-6, 10**6)
    faults: list[str] = []

    def read() -> None:
        while (newest := buffer.newest) is None or newest.payload < 3000:
            stamps = [f.stamp_ns for f in buffer.after(0)]
            if stamps != sorted(stamps):
                faults.append(f"out of order: {stamps}")
            if newest and buffer.nearest(newest.stamp_ns, 10**9) is None:
                faults.append("nothing near the newest")

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 3001):
        buffer.add(i, i, 1)
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert faults == []
    assert len(buffer) == 1001
