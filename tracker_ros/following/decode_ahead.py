# SPDX-License-Identifier: Apache-2.0
"""Decode the next compressed image while the tracker works on the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from tracker_ros.following.frames import Frame

T = TypeVar("T")

_END_S = 1.0


class DecodeAhead(Generic[T]):
    """Decodes the frames of one camera in a thread of its own, one ahead of the tracker.

    The newest frame waits to be decoded. Once that has begun, no newer one takes its place: it
    would have to be decoded in turn, and the tracker would wait for it. The next frame is begun
    when the tracker has taken the one before, so at most one decoded image waits.

    Args:
        decode: Turns a frame's payload into RGB uint8 (H, W, 3); raises ValueError if it cannot.
        is_wanted: Whether the tracker will need images; called in this thread. If not, frames are
            passed on as they are.
        pass_on: Called in this thread with each frame; `taken` must follow.
    """

    def __init__(
        self,
        decode: Callable[[T], np.ndarray],
        is_wanted: Callable[[], bool],
        pass_on: Callable[[Frame[T]], None],
    ) -> None:
        self._decode = decode
        self._is_wanted = is_wanted
        self._pass_on = pass_on
        self._wake = threading.Condition()
        self._decoding = threading.Lock()  # a camera's decoder remembers its range of grey
        self._newest: Frame[T] | None = None
        # a payload and what came of it: its image, or why there is none
        self._decoded: tuple[T, np.ndarray | Exception] | None = None
        # the same, used in the tracker's thread only
        self._at_hand: tuple[T, np.ndarray | Exception] | None = None
        self._is_one_ahead = self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, frame: Frame[T]) -> None:
        """Leave a frame to the thread; it replaces one that still waits to be decoded."""
        with self._wake:
            if self._closed:
                return
            self._newest = frame
            self._wake.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
                self._thread.start()

    def taken(self) -> None:
        """Begin with the next frame: the tracker has taken the one that was passed on."""
        with self._wake:
            self._at_hand, self._decoded = self._decoded, None
            self._is_one_ahead = False
            self._wake.notify()

    def decode(self, payload: T) -> np.ndarray:
        """Return the image of a payload: the one that was decoded ahead, or decode it now.

        Raises:
            ValueError: It cannot be decoded.
        """
        at_hand, self._at_hand = self._at_hand, None
        if at_hand is not None and at_hand[0] is payload:
            if isinstance(at_hand[1], Exception):
                raise at_hand[1]
            return at_hand[1]
        with self._decoding:
            return self._decode(payload)

    def clear(self) -> None:
        """Drop the frames that wait, decoded or not."""
        with self._wake:
            self._newest = self._decoded = None
            self._is_one_ahead = False

    def close(self) -> None:
        """Drop all frames and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self.clear()
        if self._thread is not None:
            self._thread.join(_END_S)

    def _run(self) -> None:
        while (frame := self._begin()) is not None:
            decoded = self._attempt(frame) if self._is_wanted() else None
            with self._wake:
                if self._closed:
                    return
                self._decoded = decoded
            self._pass_on(frame)

    def _begin(self) -> Frame[T] | None:
        """Wait for the next frame and return it; None at the end."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._closed or (self._newest is not None and not self._is_one_ahead)
            )
            frame, self._newest = self._newest, None
            self._is_one_ahead = True
            return None if self._closed else frame

    def _attempt(self, frame: Frame[T]) -> tuple[T, np.ndarray | Exception]:
        """Decode a frame; what is raised is for the tracker, which reports it."""
        try:
            with self._decoding:
                return frame.payload, self._decode(frame.payload)
        except Exception as error:
            return frame.payload, error
