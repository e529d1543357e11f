# SPDX-License-Identifier: Apache-2.0
"""Connections of the camera: UDP and serial ports, and the programs at their other ends.

A connection is written as ``udpin:ADDRESS:PORT`` (wait there, answer to whoever speaks),
``udpout:HOST:PORT`` (speak to this one) or ``serial:DEVICE[:BAUD]``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from tracker_ros.mavlink.dialect import load_dialect

FORGET_AFTER_S = 60.0
"""A program that has been silent for so long is not sent anything any more."""

_MAX_PEERS = 32
_READ_S = 0.2
_LARGEST = 65536
_DEFAULT_BAUD = 115200


class LinkError(RuntimeError):
    """A connection cannot be opened; the message says which, why and what to do."""


class Peer:
    """A program at the other end of a link; it has a sequence of packets of its own.

    It sees the two ids as the sender. One that is `fixed` was named by the user, and is never
    forgotten; of others counts when they were last heard, seconds.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        name: str,
        system_id: int,
        component_id: int,
        fixed: bool = False,
    ) -> None:
        self.name = name
        self.fixed = fixed
        self.heard = 0.0
        self._write = write
        self._encoder = load_dialect().MAVLink(
            None, srcSystem=system_id, srcComponent=component_id
        )

    def send(self, message: Any) -> None:
        """Send a message as the next packet of this peer's sequence."""
        data = message.pack(self._encoder)
        self._encoder.seq = (self._encoder.seq + 1) % 256
        self._write(data)


class Link:
    """A connection. A thread reads it; everything else happens in the caller's thread.

    It has a name as the user wrote it, the programs at its other end by address, and the number of
    damaged packets so far. `complain` is called with what goes wrong.
    """

    def __init__(
        self, name: str, system_id: int, component_id: int, complain: Callable[[str], None]
    ) -> None:
        self.name = name
        self.peers: dict[Any, Peer] = {}
        self.damaged = 0
        self._ids = (system_id, component_id)
        self._complain = complain
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, arrived: Callable[[Link, bytes, Any], None]) -> None:
        """Begin to read. ``arrived`` is called in the reading thread with data and sender."""

        def read() -> None:
            while not self._closed.is_set():
                for data, address in self._read():
                    arrived(self, data, address)

        self._thread = threading.Thread(target=read, name=f"mavlink {self.name}")
        self._thread.start()

    def close(self) -> None:
        """Stop reading and close the port."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._close()

    def decode(self, data: bytes, address: Any, now: float) -> list[tuple[Any, Peer]]:
        """Return the messages in what has come from an address, and who sent them.

        Damaged packets are counted, and nothing else becomes of them.
        """
        messages = self._decode(data)
        good = [message for message in messages if message.get_type() != "BAD_DATA"]
        if len(good) < len(messages):
            self.damaged += len(messages) - len(good)
            self._complain(
                f"{self.damaged} damaged packets so far on {self.name}, the latest from "
                f"{_address_name(address)}"
            )
        if not good:
            return []
        peer = self.peers.get(address)
        if peer is None:
            if len(self.peers) >= _MAX_PEERS:
                self._complain(
                    f"{_address_name(address)} is ignored: {_MAX_PEERS} programs speak on "
                    f"{self.name} already"
                )
                return []
            peer = self._add_peer(address)
        peer.heard = now
        return [(message, peer) for message in good]

    def forget_silent(self, now: float) -> list[Peer]:
        """Forget who has been silent for a minute. Returns them."""
        silent = [
            address
            for address, peer in self.peers.items()
            if not peer.fixed and now - peer.heard > FORGET_AFTER_S
        ]
        return [self.peers.pop(address) for address in silent]

    def _add_peer(self, address: Any, fixed: bool = False) -> Peer:
        write = partial(self._send, address)
        peer = Peer(write, _address_name(address), *self._ids, fixed)
        self.peers[address] = peer
        return peer

    def _send(self, address: Any, data: bytes) -> None:
        try:
            self._write(data, address)
        except OSError as error:  # no route, no buffer, unplugged: the next packet may get through
            self._complain(f"cannot send on {self.name}: {error}")

    def _read(self) -> Iterator[tuple[bytes, Any]]:
        raise NotImplementedError

    def _write(self, data: bytes, address: Any) -> None:
        raise NotImplementedError

    def _decode(self, data: bytes) -> list[Any]:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class UdpLink(Link):
    """A UDP port: bound to an address, or speaking to one."""

    def __init__(self, host: str, port: int, *, listen: bool, **common: Any) -> None:
        super().__init__(**common)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.settimeout(_READ_S)
        try:
            if listen:
                self._socket.bind((host, port))
            else:
                self._add_peer((socket.gethostbyname(host), port), fixed=True)
                self._socket.bind(("", 0))
        except OSError as error:
            self._socket.close()
            raise LinkError(
                f"cannot open {self.name}: {error}: give a free port of this machine (udpin) or "
                "a host that can be found (udpout)"
            ) from error

    @property
    def port(self) -> int:
        """The local port."""
        return int(self._socket.getsockname()[1])

    def _read(self) -> Iterator[tuple[bytes, Any]]:
        with suppress(TimeoutError, ConnectionError):
            yield self._socket.recvfrom(_LARGEST)

    def _write(self, data: bytes, address: Any) -> None:
        self._socket.sendto(data, address)

    def _decode(self, data: bytes) -> list[Any]:
        """Decode a datagram by itself.

        pymavlink's parser takes the bytes that a damaged length promises from the packets that
        follow. So nothing is carried over from one datagram to the next.
        """
        parser = _new_parser()
        messages = parser.parse_buffer(data) or []
        if parser.buf_len():
            messages.append(load_dialect().MAVLink_bad_data(parser.buf, "incomplete"))
        return list(messages)

    def _close(self) -> None:
        self._socket.close()


class SerialLink(Link):
    """A serial port, which may be unplugged and come back."""

    def __init__(self, device: str, baud: int, **common: Any) -> None:
        super().__init__(**common)
        try:
            import serial
        except ImportError as error:
            raise LinkError("pyserial is not installed: pip install pyserial") from error
        self._parser = _new_parser()
        self._add_peer(device, fixed=True)
        self._device = device
        try:
            self._port: Any = serial.Serial(device, baud, timeout=_READ_S, write_timeout=_READ_S)
        except (OSError, ValueError) as error:
            raise LinkError(
                f"cannot open {self.name}: {error}: give a device that exists and that this user "
                "may use (group dialout)"
            ) from error

    def _read(self) -> Iterator[tuple[bytes, Any]]:
        try:
            if not self._port.is_open:
                self._port.open()
            data = self._port.read(max(1, self._port.in_waiting))
        except OSError as error:  # SerialException is one
            self._complain(f"cannot read {self.name}: {error}: trying to open it again")
            self._port.close()
            self._closed.wait(1.0)
            return
        if data:
            yield data, self._device

    def _write(self, data: bytes, address: Any) -> None:
        self._port.write(data)

    def _decode(self, data: bytes) -> list[Any]:
        return list(self._parser.parse_buffer(data) or [])

    def _close(self) -> None:
        self._port.close()


def open_link(
    text: str, system_id: int, component_id: int, complain: Callable[[str], None]
) -> Link:
    """Open the connection that a text names; raises LinkError if it is none or does not open."""
    kind, _, rest = text.partition(":")
    host, _, number = rest.rpartition(":")
    common: dict[str, Any] = {
        "name": text,
        "system_id": system_id,
        "component_id": component_id,
        "complain": complain,
    }
    if kind in ("udpin", "udpout") and host and number.isdigit() and int(number) < 65536:
        return UdpLink(host, int(number), listen=kind == "udpin", **common)
    if kind == "serial" and rest:
        device, baud = (host, int(number)) if number.isdigit() and host else (rest, _DEFAULT_BAUD)
        return SerialLink(device, baud, **common)
    raise LinkError(
        f"connection is {text!r}, expected udpin:ADDRESS:PORT, udpout:HOST:PORT or "
        "serial:DEVICE:BAUD"
    )


def _address_name(address: Any) -> str:
    return ":".join(map(str, address)) if isinstance(address, tuple) else str(address)


def _new_parser() -> Any:
    parser = load_dialect().MAVLink(None)
    parser.robust_parsing = True  # damaged packets become BAD_DATA instead of exceptions
    return parser
