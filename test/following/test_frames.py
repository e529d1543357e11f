# SPDX-License-Identifier: Apache-2.0
"""Tests of frames and their buffer, and of finding a selection's frame in it."""

from __future__ import annotations

import threading

import pytest

from tracker_ros.following.frames import Frame, FrameBuffer, number_frames
from tracker_ros.following.selection import Selection, SelectionCode, SelectionRefused, find_frame

SECOND = 1_000_000_000


def filled(stamps: list[float], seconds: float = 10.0, size: int = 1000) -> FrameBuffer[str]:
    """Return a buffer with one frame of 10 bytes per stamp (seconds), named by its place."""
    buffer: FrameBuffer[str] = FrameBuffer(seconds, size)
    for i, stamp in enumerate(stamps):
        buffer.add(round(stamp * SECOND), f"f{i}", 10)
    return buffer


def names(buffer: FrameBuffer[str]) -> list[str]:
    return [frame.payload for frame in buffer.frames]


def find(stamps: list[float], wanted: float) -> str:
    """Return the name of the frame that a selection gets, or the code of its refusal."""
    selection = Selection((0.0, 0.0, 9.0, 9.0), stamp_ns=round(wanted * SECOND))
    try:
        return find_frame(filled(stamps).frames, selection, "/image").payload
    except SelectionRefused as refusal:
        return refusal.code.name


def test_an_added_frame_has_its_stamp_and_its_number():
    buffer = filled([1.0])
    frame = buffer.add(2 * SECOND, "second", 10, "camera")
    assert frame == Frame(2 * SECOND, 2, "camera", "second", 2.0, 10)
    assert buffer.frames[-1] is frame
    assert buffer.arrivals == 2


def test_a_frame_without_a_stamp_has_its_time_of_arrival(monkeypatch):
    monkeypatch.setattr("tracker_ros.following.frames.time.monotonic", lambda: 77.0)
    assert filled([0.0]).frames[0].time_s == 77.0


def test_the_frames_of_a_video_have_times_from_zero():
    frames = list(number_frames("abc", fps=10.0))
    assert [(f.number, f.payload, f.time_s) for f in frames] == [
        (1, "a", 0.0),
        (2, "b", 0.1),
        (3, "c", 0.2),
    ]
    assert frames[2].stamp_ns == SECOND // 5


def test_bounded_by_time():
    assert names(filled([1.0, 2.0, 3.0, 4.0, 4.5], seconds=2.0)) == ["f2", "f3", "f4"]


def test_bounded_by_bytes():
    assert names(filled([1.0, 2.0, 3.0, 4.0], size=25)) == ["f2", "f3"]


def test_the_newest_is_kept_however_large():
    buffer: FrameBuffer[str] = FrameBuffer(1.0, 100)
    for stamp, (name, size) in enumerate([("small", 10), ("large", 500)]):
        buffer.add(stamp, name, size)
    assert names(buffer) == ["large"]
    buffer.add(2, "next", 10)
    assert names(buffer) == ["next"]
    buffer.add(3, "fits", 90)
    assert names(buffer) == ["next", "fits"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (0.0, "f1"),
        (0.85, "STALE_STAMP"),
        (0.95, "f0"),
        (1.0, "f0"),
        (1.1, "f0"),
        (1.15, "UNKNOWN_STAMP"),
        (1.9, "f1"),
        (2.0, "f1"),
        (2.1, "f1"),
        (2.2, "FUTURE_STAMP"),
    ],
)
def test_a_selection_gets_the_nearest_frame_within_a_tenth_of_a_second(wanted, found):
    assert find([1.0, 2.0], wanted) == found


def test_a_selection_gets_the_older_of_two_equally_near():
    assert find([1.0, 1.1], 1.05) == "f0"


def test_a_selection_gets_nothing_from_an_empty_buffer():
    assert find([], 0.0) == "NO_IMAGE"


def test_a_refusal_names_the_stamps():
    frames = filled([10.0, 12.0]).frames
    with pytest.raises(SelectionRefused) as refusal:
        find_frame(frames, Selection(stamp_ns=3 * SECOND // 2), "/image")
    assert refusal.value.code is SelectionCode.STALE_STAMP
    assert "stamp 1.500 " in str(refusal.value)
    assert "oldest is 10.000 (8.500 s later)" in str(refusal.value)


def test_a_stamp_that_jumps_back_starts_anew():
    buffer = filled([5.0, 6.0, 1.0, 1.5])
    assert names(buffer) == ["f2", "f3"]
    assert buffer.clock.sequence == 1


def test_the_same_stamp_again_replaces():
    buffer = filled([0.0, 0.0, 0.0], size=25)
    assert names(buffer) == ["f2"]
    assert buffer.clock.sequence == 0
    assert buffer.frames[-1].number == buffer.arrivals == 3
    buffer.add(1, "next", 10)
    assert names(buffer) == ["f2", "next"], "what was replaced takes no bytes"


def test_new_limits_apply_at_once():
    buffer = filled([1.0, 2.0, 3.0, 4.0])
    buffer.set_limits(1.0, 1000)
    assert names(buffer) == ["f2", "f3"]
    with pytest.raises(ValueError, match="max_seconds is -1"):
        buffer.set_limits(-1.0, 10)
    with pytest.raises(ValueError, match="max_bytes is -5"):
        buffer.set_limits(1.0, -5)
    assert names(buffer) == ["f2", "f3"]


def test_clear():
    buffer = filled([0.0, 1.0], size=25)
    buffer.clear()
    assert names(buffer) == []
    for stamp in (0, 1):
        buffer.add(stamp, "again", 10)
    assert names(buffer) == ["again", "again"], "what was dropped takes no bytes"
    assert buffer.clock.sequence == 0


def test_one_thread_adds_while_another_reads():
    buffer: FrameBuffer[int] = FrameBuffer(1e-6, 10**6)
    faults: list[str] = []

    def read() -> None:
        while not (frames := buffer.frames) or frames[-1].payload < 3000:
            stamps = [frame.stamp_ns for frame in frames]
            if stamps != sorted(stamps):
                faults.append(f"out of order: {stamps}")

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 3001):
        buffer.add(i, i, 1)
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert faults == []
    assert len(buffer.frames) == 1001
