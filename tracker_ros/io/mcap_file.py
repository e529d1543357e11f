# SPDX-License-Identifier: Apache-2.0
"""Read MCAP files of any profile, record after record (https://mcap.dev/spec).

The package rosbags reads MCAP files with the profile of ROS 2 only. Foxglove's recorders write
none, and put messages of other encodings beside those of ROS. Reading in the order of the file
needs no index, so a file that was cut gives what it holds.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
_MAX_RECORD = 1 << 31


class McapError(ValueError):
    """The file is no MCAP file, or ends in the middle of a record."""


@dataclass(frozen=True)
class McapChannel:
    """A topic of a file."""

    topic: str
    # type of its messages, ``package/msg/Name`` for ROS 2, also where the file leaves out the
    # middle part
    kind: str
    encoding: str  # how they are written: ``cdr`` for ROS 2
    schema_encoding: str  # what the definition is written in: ``ros2msg``, ``ros2idl`` or other
    definition: str  # the definition of the type; empty where there is none

    @property
    def is_ros2(self) -> bool:
        """Whether its messages are those of ROS 2."""
        schemas = ("ros2msg", "ros2idl", "omgidl", "")
        return self.encoding == "cdr" and self.schema_encoding in schemas and bool(self.kind)


def read_mcap(path: Path) -> Iterator[tuple[McapChannel, int, bytes]]:
    """Yield channel, time of logging (nanoseconds) and data of each message.

    Raises McapError if the file is not MCAP or was cut, after the messages before that;
    ImportError if a package that unpacks its chunks is missing.
    """
    schemas: dict[int, tuple[str, str, str]] = {}
    channels: dict[int, McapChannel] = {}
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise McapError(f"{str(path)!r} is not an MCAP file")
        try:
            for kind, record in _records(file):
                if kind == _SCHEMA:
                    fields = _Fields(record)
                    key = fields.number("H")
                    schemas[key] = fields.text(), fields.text(), fields.text()
                elif kind == _CHANNEL:
                    fields = _Fields(record)
                    key, schema = fields.number("H"), fields.number("H")
                    name, encoding, definition = schemas.get(schema, ("", "", ""))
                    topic, data = fields.text(), fields.text()
                    if encoding == "ros2msg" and name.count("/") == 1:
                        name = name.replace("/", "/msg/")
                    channels[key] = McapChannel(topic, name, data, encoding, definition)
                elif kind == _MESSAGE:
                    channel, _, time_ns, _ = struct.unpack_from("<HIQQ", record)
                    if channel in channels:
                        yield channels[channel], time_ns, record[22:]
        except (struct.error, EOFError) as error:
            raise McapError(
                f"{str(path)!r} ends in the middle of a record: was it cut?"
            ) from error


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each record, those in chunks included."""
    while head := file.read(9):
        kind, size = struct.unpack("<BQ", head)
        if kind == _DATA_END:
            return
        if size > _MAX_RECORD:
            raise EOFError
        record = file.read(size)
        if len(record) < size:
            raise EOFError
        if kind == _CHUNK:
            yield from _records(BytesIO(_unpack(record)))
        else:
            yield kind, record


def _unpack(chunk: bytes) -> bytes:
    fields = _Fields(chunk[16:])
    fields.number("Q"), fields.number("I")  # size and checksum
    compression = fields.text()
    packed = fields.rest()[8:]
    if compression == "":
        return packed
    if compression == "zstd":
        unpack = _zstandard().decompress
    elif compression == "lz4":
        unpack = importlib.import_module("lz4.frame").decompress
    else:
        raise McapError(f"chunks are packed by {compression!r}, expected lz4 or zstd")
    try:
        return bytes(unpack(packed))
    except Exception as error:  # the packages raise errors of their own
        raise McapError(f"a chunk does not unpack ({error})") from error


def _zstandard() -> Any:
    """Import Python's module for Zstandard, or the package that rosbags brings before 3.14."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


class _Fields:
    def __init__(self, record: bytes) -> None:
        self._record = record
        self._place = 0

    def number(self, code: str) -> int:
        """Return a number of a `struct` format."""
        (value,) = struct.unpack_from("<" + code, self._record, self._place)
        self._place += struct.calcsize("<" + code)
        return int(value)

    def text(self) -> str:
        """Return a string."""
        size = self.number("I")
        self._place += size
        return self._record[self._place - size : self._place].decode("utf-8", "replace")

    def rest(self) -> bytes:
        """Return what is left."""
        return self._record[self._place :]
