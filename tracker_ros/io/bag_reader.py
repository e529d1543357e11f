# SPDX-License-Identifier: Apache-2.0
"""Read the messages of a bag without ROS: rosbag2 folders, .db3 and .mcap files (`rosbags`).

Bags are often not as they should be: a recording that was cut lacks its index or its metadata, and
one bad definition or one foreign topic stands beside hundreds of good ones. So each topic's type
is looked at when it is needed, and what can be read is read.
"""

from __future__ import annotations

import difflib
import heapq
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_ros.io.mcap_file import McapChannel, McapError, read_mcap
from tracker_ros.io.message_types import common_types, message_type

_LATENESS_NS = 1_000_000_000


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag."""

    name: str
    kind: str  # type of its messages, ``package/msg/Name``
    definition: str = ""  # the definition of the type; empty where the bag has none
    is_idl: bool = False  # whether the definition is IDL instead of ROS's own format
    digest: str = ""  # hash of the type (REP 2011); may be empty
    qos: tuple[Any, ...] = ()  # the profiles that its publishers offered, as rosbags has them
    count: int = 0  # number of messages


class BagReader(ABC):
    """The messages of a bag, its topics of ROS 2, and lines about what cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, BagTopic] = {}
        self.refused: list[str] = []
        self._stores: dict[str, Any] = {}

    @abstractmethod
    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        """Yield topic, time of recording (nanoseconds) and data of each message, by time."""

    def deserialize(self, topic: str, data: bytes) -> Any:
        """Return a message; raises ValueError if its type is not known, or the data do not fit."""
        kind = message_type(self.topics[topic].kind)
        if topic not in self._stores:
            self._stores[topic] = types_of(self.topics[topic])
        try:
            return self._stores[topic].deserialize_cdr(data, kind)
        except Exception as error:  # rosbags raises errors of many kinds on cut messages
            raise ValueError(f"message of {len(data)} bytes is no {kind}: {error!r}") from error


def types_of(topic: BagTopic) -> Any:
    """Return rosbags' store of types by a topic's own definition, or the common ones.

    Raises ValueError without a usable definition, if the type is not a common one.
    """
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    kind, fault = message_type(topic.kind), "the bag holds no definition of it"
    if topic.definition:
        try:
            if topic.is_idl:
                types = {}
                for part in _idl_parts(topic.definition):
                    types.update(get_types_from_idl(part))
            else:
                types = get_types_from_msg(topic.definition, kind)
            store = get_typestore(Stores.EMPTY)
            store.register(types)
            if kind in store.types:
                return store
            fault = "its definition is of another type"
        except Exception as error:  # as in deserialize
            fault = f"its definition cannot be read ({error!r})"
    store = common_types()
    if kind not in store.types:
        raise ValueError(
            f"topic {topic.name} has the type {topic.kind}, which is not known here, and "
            f"{fault}: record as MCAP, or with ROS 2 Iron or newer, which store definitions"
        )
    return store


def open_bag(path: str | Path) -> BagReader:
    """Open a rosbag2 folder, or one of its files.

    Raises FileNotFoundError if there is nothing, ValueError if it cannot be read, ImportError
    without the package rosbags.
    """
    try:
        import rosbags.rosbag2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"reading bags needs the package rosbags ({error}): pip install rosbags"
        ) from error
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no bag at {str(path)!r}")
    if path.suffix == ".bag":
        raise ValueError(
            f"{str(path)!r} is a bag of ROS 1; convert it: rosbags-convert --src {path} "
            f"--dst {path.with_suffix('')}"
        )
    try:
        return _RosbagsReader(path, [path])
    except Exception as error:  # rosbags lets errors of many kinds out on damaged bags
        fault = error
    files = [path] if path.is_file() else sorted(path.iterdir())
    mcap = [file for file in files if file.suffix == ".mcap"]
    sqlite = [file for file in files if file.suffix == ".db3" and path.is_dir()]
    for reader, found in ((_McapReader, mcap), (_RosbagsReader, sqlite)):
        if found:
            try:
                return reader(path, found)
            except Exception as error:  # as above
                fault = error
    raise ValueError(
        f"{str(path)!r} is no bag that can be read: {fault}; if the recording was cut, try "
        "ros2 bag reindex"
    ) from fault


def find_topic(reader: BagReader, name: str, kinds: Iterable[str], what: str) -> str:
    """Return the topic of one of some types that a user means; an empty name takes the only one.

    `what` it holds is for messages, such as "image". Raises ValueError if there is none, or
    several; names those there are, the nearest first.
    """
    accepted = set(kinds)
    fitting = sorted(t.name for t in reader.topics.values() if t.kind in accepted)
    if name in fitting:
        return name
    if not name and len(fitting) == 1:
        return fitting[0]
    refused = "".join(f"; {line}" for line in reader.refused)
    if name in reader.topics:
        fault = f"topic {name!r} is no {what} topic: it holds {reader.topics[name].kind}"
    elif name:
        near = difflib.get_close_matches(name, list(reader.topics), n=3, cutoff=0.6)
        fault = f"{str(reader.path)!r} has no topic {name!r}"
        fault += f" (near: {', '.join(near)})" if near else ""
    else:
        fault = f"{str(reader.path)!r} has {len(fitting) or 'no'} {what} topics"
    listed = ", ".join(fitting) or "none"
    raise ValueError(f"{fault}; its {what} topics: {listed}{refused}")


def _idl_parts(text: str) -> list[str]:
    """Split a definition of several IDL files, each after a line that names it."""
    rule = "=" * 80 + "\n"
    if not text.startswith(f"{rule}IDL: "):
        return [text]
    return [part.partition("\n")[2] for part in text.split(rule)[1:]]


class _RosbagsReader(BagReader):
    """Reads what the package rosbags reads; several files without metadata one after another."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        super().__init__(path)
        self._files: list[Path] = []
        fault: Exception | None = None
        for file in files:
            try:
                with _opened(file) as reader:
                    self._add_topics(reader.connections)
                    self._files.append(file)
            except Exception as error:
                if len(files) == 1:
                    raise
                self.refused.append(f"{file.name} cannot be read ({error})")
                fault = error
        if not self._files and fault is not None:
            raise fault

    def _add_topics(self, connections: Iterable[Any]) -> None:
        for link in connections:
            before = self.topics.get(link.topic)
            if before is not None and before.kind != link.msgtype:
                self.refused.append(
                    f"topic {link.topic} holds {before.kind} and {link.msgtype}; the first is read"
                )
                continue
            self.topics[link.topic] = BagTopic(
                link.topic,
                link.msgtype,
                link.msgdef.data,
                link.msgdef.format.name == "IDL",
                link.digest,
                tuple(link.ext.offered_qos_profiles),
                link.msgcount + (before.count if before is not None else 0),
            )

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        for file in self._files:
            with _opened(file) as reader:
                links = [
                    link
                    for link in reader.connections
                    if link.topic in topics and link.msgtype == self.topics[link.topic].kind
                ]
                messages = reader.messages(links) if links else iter(())
                while (message := self._next(messages, file)) is not None:
                    link, time_ns, data = message
                    yield link.topic, time_ns, data

    def _next(self, messages: Iterator[Any], file: Path) -> Any:
        """Return the next message; None at the end, or where the file is damaged."""
        try:
            return next(messages, None)
        except Exception as error:  # as when it is opened
            line = f"{file.name} is read up to its fault: {error}"
            if line not in self.refused:
                self.refused.append(line)
            return None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from rosbags.rosbag2 import Reader

    with Reader(path) as reader:
        yield reader


class _McapReader(BagReader):
    """Reads the ROS 2 messages in MCAP files of any profile, with or without an index.

    Raises McapError if the last file holds nothing that can be read.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        super().__init__(path)
        self._files = files
        channels: dict[str, McapChannel] = {}
        counts: dict[str, int] = {}
        for channel, _, _ in self._read(strict=True):
            channels.setdefault(channel.topic, channel)
            counts[channel.topic] = counts.get(channel.topic, 0) + 1
        for name, c in sorted(channels.items()):
            if c.is_ros2:
                is_idl = c.schema_encoding != "ros2msg"
                self.topics[name] = BagTopic(
                    name, c.kind, c.definition, is_idl, count=counts[name]
                )
            else:
                held = f"{c.encoding or 'unknown'} messages{'' if c.kind else ' without a type'}"
                self.refused.append(f"topic {name} holds {held}, not those of ROS 2")

    def _read(self, strict: bool = False) -> Iterator[tuple[McapChannel, int, bytes]]:
        """Yield all messages; a file that was cut ends where it was cut."""
        for place, file in enumerate(self._files):
            count = 0
            try:
                for message in read_mcap(file):
                    count += 1
                    yield message
            except McapError as error:
                if strict and not count and place == len(self._files) - 1:
                    raise
                if strict:
                    self.refused.append(f"{file.name} is read up to its fault: {error}")

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        wanted = (
            (time_ns, place, channel.topic, data)
            for place, (channel, time_ns, data) in enumerate(self._read())
            if channel.topic in topics and channel.is_ros2
        )
        for time_ns, _, topic, data in _sorted_within(wanted, _LATENESS_NS):
            yield topic, time_ns, data


def _sorted_within(
    messages: Iterable[tuple[int, int, str, bytes]], lateness_ns: int
) -> Iterator[tuple[int, int, str, bytes]]:
    """Sort messages by time that are at most so much later in a file than their time says."""
    waiting: list[tuple[int, int, str, bytes]] = []
    newest = 0
    for message in messages:
        heapq.heappush(waiting, message)
        newest = max(newest, message[0])
        while waiting[0][0] <= newest - lateness_ns:
            yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)
