# SPDX-License-Identifier: Apache-2.0
"""Pictures as video over WebRTC, by aiortc, for viewers that others' networks reach.

A video's packets are encoded once and shared by all viewers; each connection only cuts them up and
encrypts them. The time stamps of RTP tell the page which picture it shows, but begin at a random
number. So the first picture is sent alone: the page tells that it has come, knows the number from
then on, and gets the rest. Until that moment, and if it never comes, it gets JPEG.
"""

from __future__ import annotations

import asyncio
import fractions
import logging
import re
from typing import Any

import av
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamTrack

from tracker_ros.console.encoders import CLOCK_HZ
from tracker_ros.console.hub import VideoPacket, Viewer

MAX_PEERS = 8
_MAX_WAITING = 8
_PATIENCE_S = 15.0
_LOG = logging.getLogger(__name__)


def missing_encoder() -> str:
    """Return what is missing to encode video; empty if nothing is."""
    known = "libx264" in av.codecs_available
    return "" if known else "PyAV's FFmpeg has no encoder libx264 (pip install av)"


class PictureTrack(MediaStreamTrack):
    """Packets for one viewer; used in the event loop alone. See `Track`."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._packets: asyncio.Queue[av.Packet] = asyncio.Queue()
        self._begun = False
        self.opened = self.asks = self.needs_key = False

    def open(self) -> None:
        """Send all pictures from now on, beginning with one that needs no other."""
        self.opened = self.needs_key = True

    def offer(self, packet: VideoPacket) -> bool:
        """Send a packet, unless decoding could not use it. Returns whether it was sent."""
        if not self.asks or (self.needs_key and not packet.key):
            return False
        if not self.opened and self._begun:
            return False  # the first picture is on its way, alone
        if self._packets.qsize() >= _MAX_WAITING:
            while not self._packets.empty():
                self._packets.get_nowait()
            self.needs_key = True
            return False
        self._begun, self.needs_key = True, False
        data = av.Packet(packet.data)
        data.pts, data.time_base = packet.ticks, fractions.Fraction(1, CLOCK_HZ)
        self._packets.put_nowait(data)
        return True

    async def recv(self) -> av.Packet:
        """Wait for the next packet; aiortc asks for it as soon as the connection stands."""
        if not self.asks:
            self.asks = self.needs_key = True
        return await self._packets.get()


class ViewerVideo:
    """The videos of one viewer, whose tracks it sets: a connection for each camera."""

    def __init__(self, viewer: Viewer, address: str) -> None:
        self._viewer, self._address = viewer, address
        self._peers: dict[str, RTCPeerConnection] = {}
        self._watch: set[asyncio.Task[None]] = set()

    async def carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what the page asks for a camera's video: ``offer``, ``opened`` or ``stop``.

        Raises KeyError, TypeError or ValueError if the command is not understood.
        """
        name, step = f"{command['camera']}/image", command["step"]
        if step == "offer":
            return await self._answer(name, str(command["sdp"]))
        if step == "opened":
            track = self._viewer.tracks.get(name)
            if not isinstance(track, PictureTrack):
                return {"success": False, "message": "no video has begun"}
            track.open()
        elif step == "stop":
            await self._stop(name)
        else:
            raise ValueError(f"step is {step!r}; expected offer, opened or stop")
        return {"success": True, "message": ""}

    async def close(self) -> None:
        """End all connections."""
        for name in [*self._peers]:
            await self._stop(name)

    async def _answer(self, name: str, sdp: str) -> dict[str, Any]:
        await self._stop(name)
        if len(self._peers) >= MAX_PEERS:
            return {"success": False, "message": f"{MAX_PEERS} videos are sent, the maximum"}
        # Without servers: it works where there is no internet, and asks nobody elsewhere.
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        track = PictureTrack()
        self._peers[name], self._viewer.tracks[name] = peer, track

        async def follow_state() -> None:
            if peer.connectionState in ("failed", "closed"):
                await self._stop(name, peer)

        peer.on("connectionstatechange", follow_state)
        try:
            sdp = without_hidden_hosts(sdp, self._address)
            await peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            peer.addTrack(track)
            await peer.setLocalDescription(await peer.createAnswer())
        except Exception as error:  # aiortc names no errors of its own for what it cannot read
            await self._stop(name, peer)
            _LOG.warning("a browser's offer of WebRTC cannot be used: %s", error)
            return {"success": False, "message": f"the offer cannot be used: {error}"}
        self._watch_opening(name, peer, track)
        return {"success": True, "message": "", "sdp": peer.localDescription.sdp}

    def _watch_opening(self, name: str, peer: RTCPeerConnection, track: PictureTrack) -> None:
        """Give a connection up that does not stand after some seconds."""

        async def watch() -> None:
            await asyncio.sleep(_PATIENCE_S)
            if not track.asks:
                await self._stop(name, peer)

        task = asyncio.get_running_loop().create_task(watch())
        self._watch.add(task)
        task.add_done_callback(self._watch.discard)

    async def _stop(self, name: str, only: RTCPeerConnection | None = None) -> None:
        """End the connection for a camera, unless another than `only` has taken its place."""
        peer = self._peers.get(name)
        if peer is not None and only in (None, peer):
            del self._peers[name]
            self._viewer.tracks.pop(name, None)
            await peer.close()


def without_hidden_hosts(sdp: str, address: str) -> str:
    """Return an offer in which names that hide the browser's addresses are its address.

    Browsers offer ``UUID.local`` instead of their addresses. Looking these names up takes
    multicast DNS, and often fails; the address from which the page was opened is known.
    """
    return re.sub(r"(?m)^(a=candidate:(?:\S+ ){4})\S+\.local ", rf"\g<1>{address} ", sdp)
