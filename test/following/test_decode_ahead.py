# SPDX-License-Identifier: Apache-2.0
"""Tests of the thread that decodes one image ahead of the tracker."""

from __future__ import annotations

import queue
import threading

import numpy as np
import pytest

from tracker_ros.following.decode_ahead import DecodeAhead
from tracker_ros.following.frames import Frame

PATIENCE_S = 20.0


class Bench:
    """A decoder whose every step can be seen and held up; a payload below 0 cannot be read.

    Attributes:
        passed: Frames that were passed on to the tracker.
        begun: Payloads whose decoding has begun.
        decoded: All of them in order.
    """

    def __init__(self) -> None:
        self.passed: queue.Queue[Frame[int]] = queue.Queue()
        self.begun: queue.Queue[int] = queue.Queue()
        self.decoded: list[int] = []
        self.wanted = True
        self.may_decode = threading.Event()
        self.may_decode.set()
        self._alone = threading.Lock()
        self.ahead: DecodeAhead[int] = DecodeAhead(
            self._decode, lambda: self.wanted, self.passed.put
        )

    def _decode(self, payload: int) -> np.ndarray:
        assert self._alone.acquire(blocking=False), "two threads decode at once"
        try:
            self.decoded.append(payload)
            self.begun.put(payload)
            assert self.may_decode.wait(PATIENCE_S)
            if payload < 0:
                raise ValueError(f"{payload} is no picture")
            return np.full((2, 2, 3), payload, np.uint8)
        finally:
            self._alone.release()

    def put(self, *payloads: int) -> None:
        """Let images arrive."""
        for payload in payloads:
            self.ahead.put(Frame(payload, payload, "camera", payload, float(payload)))

    def take(self) -> Frame[int]:
        """Take the next frame as the tracker does, and return it."""
        frame = self.passed.get(timeout=PATIENCE_S)
        self.ahead.taken()
        return frame


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.may_decode.set()
    made.ahead.close()


def test_what_was_begun_is_kept_and_then_the_newest_is_begun(bench):
    bench.may_decode.clear()
    bench.put(1)
    assert bench.begun.get(timeout=PATIENCE_S) == 1
    bench.put(2, 3)
    bench.may_decode.set()
    frame = bench.take()
    assert frame.number == 1
    assert bench.ahead.decode(frame.payload)[0, 0, 0] == 1
    assert bench.take().number == 3
    assert bench.decoded == [1, 3]


def test_one_image_waits_for_the_tracker_and_no_more(bench):
    bench.put(1)
    assert bench.passed.get(timeout=PATIENCE_S).number == 1
    bench.put(2, 3, 4)
    with pytest.raises(queue.Empty):
        bench.passed.get(timeout=0.05)
    assert bench.decoded == [1]
    bench.ahead.taken()
    assert bench.take().number == 4


def test_the_tracker_works_on_one_image_while_the_next_is_decoded(bench):
    bench.put(1)
    first = bench.take()
    assert bench.begun.get(timeout=PATIENCE_S) == 1
    bench.may_decode.clear()
    bench.put(2)
    assert bench.begun.get(timeout=PATIENCE_S) == 2
    assert bench.ahead.decode(first.payload)[0, 0, 0] == 1
    bench.may_decode.set()
    assert bench.take().number == 2
    assert bench.decoded == [1, 2]


def test_nothing_is_decoded_while_nothing_is_followed(bench):
    bench.wanted = False
    for number in (1, 2):
        bench.put(number)
        assert bench.take().number == number
    assert bench.decoded == []
    assert bench.ahead.decode(2)[0, 0, 0] == 2, "a selection needs the image after all"
    bench.wanted = True
    bench.put(3)
    assert bench.take().number == 3
    assert bench.ahead.decode(3)[0, 0, 0] == 3
    assert bench.decoded == [2, 3]


def test_another_image_is_decoded_when_it_is_asked_for(bench):
    bench.put(5)
    frame = bench.take()
    assert bench.ahead.decode(4)[0, 0, 0] == 4, "a replay goes back"
    assert bench.ahead.decode(frame.payload)[0, 0, 0] == 5


def test_two_threads_never_decode_at_once(bench):
    bench.may_decode.clear()
    bench.put(1)
    assert bench.begun.get(timeout=PATIENCE_S) == 1
    images = []
    replay = threading.Thread(target=lambda: images.append(bench.ahead.decode(9)))
    replay.start()
    replay.join(0.05)
    assert bench.decoded == [1]
    bench.may_decode.set()
    replay.join(PATIENCE_S)
    assert images[0][0, 0, 0] == 9


def test_who_asks_for_a_broken_image_is_told(bench):
    bench.put(-1)
    frame = bench.take()
    with pytest.raises(ValueError, match="-1 is no picture"):
        bench.ahead.decode(frame.payload)
    assert bench.decoded == [-1], "it is not decoded again for that"
    bench.put(2)
    assert bench.take().number == 2


def test_clearing_drops_what_waits(bench):
    bench.put(1)
    assert bench.passed.get(timeout=PATIENCE_S).number == 1
    bench.put(2)
    bench.ahead.clear()
    with pytest.raises(queue.Empty):
        bench.passed.get(timeout=0.05)
    bench.put(3)
    assert bench.take().number == 3
    assert bench.decoded == [1, 3]


def test_closing_ends_the_thread_and_passes_nothing_on(bench):
    bench.may_decode.clear()
    bench.put(1)
    assert bench.begun.get(timeout=PATIENCE_S) == 1
    (thread,) = (t for t in threading.enumerate() if t.name == "decoder")
    closing = threading.Thread(target=bench.ahead.close)
    closing.start()
    bench.put(2)
    bench.may_decode.set()
    closing.join(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    bench.put(3)
    assert bench.passed.empty()
    assert bench.decoded == [1]


def test_a_camera_of_raw_images_starts_no_thread(bench):
    assert bench.ahead.decode(1)[0, 0, 0] == 1
    bench.ahead.close()
    assert all(thread.name != "decoder" for thread in threading.enumerate())
