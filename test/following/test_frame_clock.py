# SPDX-License-Identifier: Apache-2.0
"""Times of frames from stamps that are out of order, stand still, jump or are too slow."""

from __future__ import annotations

import itertools

import pytest

from tracker_ros.following.frame_clock import FrameClock
from tracker_ros.following.frames import FrameBuffer
from tracker_ros.following.selection import Selection, find_frame

SECOND = 1_000_000_000
START = 1_700_000_000.0
FPS = 12.0


def times(stamps, interval_s=1 / FPS, clock=None):
    """Return the clock and the times of frames that arrive at a steady rate."""
    clock = FrameClock() if clock is None else clock
    found = [
        clock.time_of(round(stamp * SECOND), 50.0 + i * interval_s)
        for i, stamp in enumerate(stamps)
    ]
    return clock, found


def steady(count, scale=1.0, begin=START):
    """Return stamps of a steady rate."""
    return [begin + scale * i / FPS for i in range(count)]


def buffered(stamps):
    """Return a buffer with frames of these stamps, named by their place."""
    buffer = FrameBuffer(60.0, 1000)
    for i, stamp in enumerate(stamps):
        buffer.add(round(stamp * SECOND), i, 1)
    return buffer


@pytest.mark.parametrize(
    ("fps", "scale"), [(12, 0.2), (12, 1.0), (12, 10.0), (30, 0.1), (60, 0.25)]
)
def test_stamps_are_the_times_however_fast_a_recording_is_played(fps, scale):
    stamps = [START + i / fps for i in range(30)]
    clock, found = times(stamps, interval_s=1 / fps / scale)
    assert found == pytest.approx(stamps, abs=1e-4)
    assert (clock.sequence, clock.late, clock.fault) == (0, 0, "")


def test_a_pause_in_a_recording_is_no_jump():
    stamps = [START, START + 0.1, START + 0.2, START + 5.0, START + 5.1]
    clock, found = times(stamps)
    assert found == pytest.approx(stamps, abs=1e-4)
    assert clock.sequence == 0


@pytest.mark.parametrize("late_s", [0.001, 0.09, 0.4])
def test_late_frames_are_kept_in_the_order_of_their_stamps(late_s):
    stamps = steady(10)
    stamps[5] = stamps[4] - late_s
    buffer = buffered(stamps)
    kept = [frame.stamp_ns for frame in buffer.frames]
    assert kept == sorted(round(stamp * SECOND) for stamp in stamps)
    assert (buffer.clock.sequence, buffer.clock.late) == (0, 1)
    selection = Selection((0, 0, 9, 9), stamp_ns=round(stamps[1] * SECOND))
    assert find_frame(buffer.frames, selection, "/image").payload == 1


def test_swapped_pairs_are_kept_in_the_order_of_their_stamps():
    stamps = steady(20)
    stamps[0::2], stamps[1::2] = stamps[1::2], stamps[0::2]
    buffer = buffered(stamps)
    assert [frame.payload for frame in buffer.frames][:4] == [1, 0, 3, 2]
    assert (buffer.clock.sequence, buffer.clock.late, len(buffer.frames)) == (0, 10, 20)
    newest, late = buffer.frames[-1], buffer.frames[-2]
    assert buffer.is_newest(newest)
    assert not buffer.is_newest(late)


def test_a_recording_that_starts_again_begins_a_sequence():
    stamps = steady(20) + steady(5)
    buffer = buffered(stamps)
    assert [frame.payload for frame in buffer.frames] == [20, 21, 22, 23, 24]
    assert buffer.clock.sequence == 1
    _, found = times(stamps)
    assert found[20:] == pytest.approx(stamps[20:], abs=1e-4)


def test_a_clock_that_is_set_back_a_little_begins_a_sequence_after_a_few_frames():
    stamps = steady(10) + steady(10, begin=START + 10 / FPS - 0.45)
    clock, _ = times(stamps)
    assert clock.sequence == 1


def test_one_stamp_far_in_the_future_takes_no_time():
    stamps = steady(30)
    stamps[12] += 3600.0
    clock, found = times(stamps)
    assert clock.sequence == 2
    assert found[12] - found[11] == pytest.approx(1 / FPS, abs=1e-4)
    assert found[13:] == pytest.approx(stamps[13:], abs=1e-4)


def test_stamps_that_are_all_in_the_future_are_as_good_as_others():
    stamps = steady(30, begin=START + 1e6)
    assert times(stamps)[1] == pytest.approx(stamps, abs=1e-4)


@pytest.mark.parametrize("stamp", [0.0, 5.0, START, START + 1e6])
def test_stamps_that_stand_still_leave_the_time_to_the_arrival(stamp):
    clock, found = times([stamp] * 40)
    elapsed = [later - earlier for earlier, later in itertools.pairwise(found[12:])]
    assert elapsed == pytest.approx([1 / FPS] * len(elapsed), abs=1e-4)
    assert bool(clock.fault) == (stamp != 0.0)


@pytest.mark.parametrize("fps", [5, 12, 30])
@pytest.mark.parametrize("scale", [0.1, 0.01, 1e-3, 1e-9])
def test_stamps_that_advance_too_slowly_leave_the_time_to_the_arrival(fps, scale):
    clock, found = times([START + scale * i / fps for i in range(40)], interval_s=1 / fps)
    assert found[-1] - found[12] == pytest.approx(27 / fps, abs=1e-4)
    assert "too slowly" in clock.fault or "not advance" in clock.fault


@pytest.mark.parametrize("apart_s", [2.0, 100.0, 1e6])
def test_two_cameras_with_different_clocks_leave_the_time_to_the_arrival(apart_s):
    one, other = steady(30), steady(30, begin=START - apart_s)
    clock, found = times([stamp for pair in zip(one, other, strict=True) for stamp in pair])
    assert clock.sequence <= 4
    assert clock.fault
    assert found[-1] - found[20] == pytest.approx(39 / FPS, abs=1e-4)
    buffer = buffered([stamp for pair in zip(one, other, strict=True) for stamp in pair])
    assert len(buffer.frames) >= 50


def test_good_stamps_are_trusted_again():
    clock, found = times([START] * 20 + steady(30, begin=START + 2.0))
    assert clock.fault == ""
    assert found[-1] == pytest.approx(START + 2.0 + 29 / FPS, abs=1e-4) or found[-1] > found[20]
    assert all(later > earlier for earlier, later in itertools.pairwise(found[13:]))


def test_images_in_bursts_have_the_times_of_their_stamps():
    clock = FrameClock()
    stamps = [START + i / 30 for i in range(60)]
    arrivals = [100.0 + 0.5 * (i // 15) + 1e-4 * i for i in range(60)]
    found = [
        clock.time_of(round(stamp * SECOND), arrival)
        for stamp, arrival in zip(stamps, arrivals, strict=True)
    ]
    assert found == pytest.approx(stamps, abs=1e-4)


def test_pairs_are_found_by_the_nearest_stamp():
    buffer = buffered(steady(10))
    wanted = round((START + 3 / FPS + 0.01) * SECOND)
    found = buffer.nearest(wanted, 0.02)
    assert found is not None and found.payload == 3
    assert buffer.nearest(wanted, 0.005) is None
    assert FrameBuffer(1.0, 10).nearest(wanted, 1.0) is None
