# SPDX-License-Identifier: Apache-2.0
"""What the viewers of the console are sent: the newest picture of each camera, states, log lines.

The nodes' thread offers messages; the server's event loop hands them to the viewers. A picture is
encoded once for all viewers. A viewer on a slow link gets fewer pictures, never older ones: each
viewer has one slot per picture, and two pictures at most are on the way to it. Pictures that a
viewer gets as video (WebRTC) go through its tracks; only what is known of them comes this way.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_VIEWERS = 16
_MAX_ON_THE_WAY = 2
_MAX_LINES = 200
_MAX_FRAMES = 64


class TooManyViewersError(RuntimeError):
    """As many viewers are connected as the hub serves."""


@dataclass(frozen=True)
class VideoPacket:
    """One picture of a video."""

    data: bytes  # H.264 with start codes (Annex B)
    ticks: int  # time stamp in RTP's ticks, 90 000 per second
    key: bool  # whether decoding can begin here


@dataclass(frozen=True)
class Picture:
    """A picture for the viewers."""

    name: str  # which picture: ``NAME/image`` or ``NAME/score``, with the camera's name
    jpeg: bytes | None  # the picture as JPEG; None if nobody takes it so
    facts: dict[str, Any]  # what is known of it, as JSON values: stamp, size, boxes
    packet: VideoPacket | None = None  # the picture as part of a video; None if nobody takes it so

    def encoded(self) -> bytes | None:
        """Return the binary message: length of the JSON (4 bytes, big-endian), JSON, JPEG."""
        if self.jpeg is None:
            return None
        head = json.dumps({"kind": "picture", "name": self.name, **self.facts}).encode()
        return struct.pack(">I", len(head)) + head + self.jpeg


@dataclass(frozen=True)
class Wanted:
    """In which kinds viewers take a picture."""

    jpeg: bool  # somebody takes it as JPEG
    video: bool  # somebody takes it as video
    key: bool  # somebody's video must begin with the next picture


class Track(Protocol):
    """The video of one camera on its way to one viewer."""

    opened: bool  # whether the viewer shows it, so that it needs no JPEG
    asks: bool  # whether packets can be sent
    needs_key: bool  # whether the next packet must be one with which decoding can begin

    def offer(self, packet: VideoPacket) -> bool:
        """Send a packet, unless decoding could not use it. Returns whether it was sent."""


@dataclass
class Viewer:
    """One connected browser, used in the event loop alone."""

    # the newest picture of each name that was not sent yet, encoded
    pictures: dict[str, bytes] = field(default_factory=dict)
    # the newest message of each kind and camera that was not sent yet
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    # what is known of the pictures that were sent as video, not sent yet
    frames: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MAX_FRAMES))
    # answers to this viewer's commands
    answers: deque[dict[str, Any]] = field(default_factory=deque)
    # log lines not sent yet
    lines: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MAX_LINES))
    # the videos that the viewer gets, by the picture's name
    tracks: dict[str, Track] = field(default_factory=dict)
    looking: bool = True  # whether the page can be seen; a hidden one gets no pictures
    on_the_way: int = 0  # pictures sent and not yet acknowledged
    # set when there is something to send
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, picture: Picture, message: bytes | None) -> None:
        """Take a picture as video, as JPEG, or, while the video begins, as both."""
        if not self.looking:
            return
        track = self.tracks.get(picture.name)
        if track is not None and picture.packet is not None:
            first = not track.opened
            if track.offer(picture.packet):
                ticks = picture.packet.ticks & 0xFFFF_FFFF
                facts = {"name": picture.name, "ticks": ticks, "first": first, **picture.facts}
                self.frames.append({"kind": "frame", **facts})
        as_video = track is not None and track.opened and picture.packet is not None
        if message is not None and not as_video:
            self.pictures[picture.name] = message
        self.wake.set()

    def acknowledge(self) -> None:
        """Note that a picture has arrived."""
        self.on_the_way = max(0, self.on_the_way - 1)
        self.wake.set()

    async def next_message(self) -> str | bytes:
        """Wait for something to send and return it: frames, answers, lines, states, pictures."""
        while True:
            if self.frames:
                return json.dumps(self.frames.popleft())
            if self.answers:
                return json.dumps(self.answers.popleft())
            if self.lines:
                return json.dumps(self.lines.popleft())
            if self.states:
                return json.dumps(self.states.pop(next(iter(self.states))))
            if self.pictures and self.on_the_way < _MAX_ON_THE_WAY:
                self.on_the_way += 1
                return self.pictures.pop(next(iter(self.pictures)))
            self.wake.clear()
            await self.wake.wait()


class Hub:
    """Passes what the nodes offer to all viewers.

    `watched` is called in the event loop with the number of viewers that look when it changes.
    """

    def __init__(self, watched: Callable[[int], None] = lambda count: None) -> None:
        self._watched = watched
        self._loop: asyncio.AbstractEventLoop | None = None
        self._viewers: tuple[Viewer, ...] = ()  # read in any thread
        self._states: dict[str, dict[str, Any]] = {}
        self._lines: deque[dict[str, Any]] = deque(maxlen=_MAX_LINES)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use this event loop from now on."""
        self._loop = loop

    def offer_picture(self, picture: Picture) -> None:
        """Show a picture to all viewers; may be called in any thread."""
        message = picture.encoded()

        def spread() -> None:
            for viewer in self._viewers:
                viewer.take(picture, message)

        self._in_loop(spread)

    def wanted(self, name: str) -> Wanted:
        """Return in which kinds viewers take a picture; may be called in any thread."""
        tracks = [viewer.tracks.get(name) for viewer in self._viewers if viewer.looking]
        return Wanted(
            jpeg=any(track is None or not track.opened for track in tracks),
            video=any(track is not None and track.asks for track in tracks),
            key=any(track is not None and track.needs_key for track in tracks),
        )

    def offer_state(self, kind: str, camera: str, values: dict[str, Any]) -> None:
        """Tell all viewers, and those to come, the newest state; may be called in any thread."""
        message = {"kind": kind, "camera": camera, **values}

        def spread() -> None:
            self._states[f"{kind} {camera}"] = message
            for viewer in self._viewers:
                viewer.states[f"{kind} {camera}"] = message
                viewer.wake.set()

        self._in_loop(spread)

    def offer_line(self, values: dict[str, Any]) -> None:
        """Tell all viewers, and those to come, a log line; may be called in any thread."""
        message = {"kind": "log", **values}

        def spread() -> None:
            self._lines.append(message)
            for viewer in self._viewers:
                viewer.lines.append(message)
                viewer.wake.set()

        self._in_loop(spread)

    def enter(self) -> Viewer:
        """Return a new viewer that is up to date; call it in the event loop.

        Raises TooManyViewersError if `MAX_VIEWERS` are connected.
        """
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewersError(f"{MAX_VIEWERS} viewers are connected, the maximum")
        viewer = Viewer()
        viewer.states.update(self._states)
        viewer.lines.extend(self._lines)
        self._viewers += (viewer,)
        self.count()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer; call it in the event loop."""
        self._viewers = tuple(other for other in self._viewers if other is not viewer)
        self.count()

    def count(self) -> None:
        """Tell how many viewers look; call it in the event loop when that has changed."""
        self._watched(sum(viewer.looking for viewer in self._viewers))

    def _in_loop(self, action: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)
