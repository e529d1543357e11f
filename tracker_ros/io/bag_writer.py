# SPDX-License-Identifier: Apache-2.0
"""Write bags without ROS (`rosbags`): there whole or not at all, with all message definitions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tracker_ros.io.bag_reader import BagTopic, types_of
from tracker_ros.io.message_types import Content, common_types, make_message, message_type
from tracker_ros.output_files import UnfinishedFolder

_MCAP, _SQLITE = ".mcap", ".db3"
_VERSION = 9  # of rosbag2's metadata: Iron and newer; older ones read it too


def check_bag_name(path: Path) -> None:
    """Raise ValueError if no bag can be written there."""
    if path.suffix not in (_MCAP, _SQLITE, ""):
        raise ValueError(
            f"the bag {str(path)!r} ends in {path.suffix!r}; give NAME.mcap, NAME.db3, or a name "
            "without an ending for a folder as ros2 bag record makes it"
        )
    if path.is_dir():
        raise ValueError(f"the bag {str(path)!r} is there already; remove it or give another name")


class BagWriter:
    """Writes a bag: ``NAME.mcap``, ``NAME.db3``, or a new folder with its metadata (MCAP inside).

    A file that is there is replaced. The chunks of MCAP may be compressed, with zstd. Raises
    ValueError for another name or a folder that is there, OSError, which names path and remedy, if
    it cannot be written.
    """

    def __init__(self, path: Path, *, compress: bool = False) -> None:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        check_bag_name(path)
        self._path = path
        self._place = UnfinishedFolder(path)
        self._inner = self._place.path / (path.stem or path.name)
        storage = StoragePlugin.SQLITE3 if path.suffix == _SQLITE else StoragePlugin.MCAP
        self._writer: Any = Writer(self._inner, version=_VERSION, storage_plugin=storage)
        if compress and storage is StoragePlugin.MCAP:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._links: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        try:
            self._writer.open()
        except Exception as error:
            self.discard()
            raise self._place.unwritable(error) from error

    def add_topic(self, topic: str, kind: str) -> None:
        """Begin a topic of messages of a common type; raises ValueError if the bag has it."""
        store, own = common_types(), message_type(kind)
        definition, _ = store.generate_msgdef(own, ros_version=2)
        self._add(topic, kind, msgdef=definition, rihs01=store.hash_rihs01(own))

    def copy_topic(self, topic: BagTopic) -> bool:
        """Begin a topic of another bag. Returns False if its type is not known."""
        kind = message_type(topic.kind)
        try:
            store = types_of(topic)
            definition = topic.definition or store.generate_msgdef(kind, ros_version=2)[0]
            digest = topic.digest or store.hash_rihs01(kind)
        except Exception:  # rosbags raises errors of many kinds on definitions
            if not (topic.definition and topic.digest):
                return False
            definition, digest = topic.definition, topic.digest
        self._add(
            topic.name,
            topic.kind,
            msgdef=definition,
            rihs01=digest,
            offered_qos_profiles=topic.qos,
        )
        return True

    def _add(self, topic: str, kind: str, **given: Any) -> None:
        if topic in self._links:
            raise ValueError(
                f"topic {topic} would be in the bag twice; give the results a namespace of their "
                "own with --namespace"
            )
        self._links[topic] = self._writer.add_connection(topic, kind, **given)
        self.counts[topic] = 0

    def write(self, topic: str, time_ns: int, content: Content) -> None:
        """Write a message by its content; see `make_message`.

        Raises OSError if the disk is full, for example; the bag is then given up.
        """
        store, kind = common_types(), message_type(self._links[topic].msgtype)
        self.copy(topic, time_ns, store.serialize_cdr(make_message(store, kind, content), kind))

    def copy(self, topic: str, time_ns: int, data: bytes | memoryview) -> None:
        """Write a serialised message; raises as `write`."""
        try:
            self._writer.write(self._links[topic], time_ns, data)
        except Exception as error:  # rosbags lets those of SQLite out
            self.discard()
            raise self._place.unwritable(error) from error
        self.counts[topic] += 1

    def finish(self) -> None:
        """Complete the bag and put it in its place; raises as `write`."""
        try:
            self._writer.close()
            self._writer = None
            inside = self._inner
            if self._path.suffix:
                inside = next(self._inner.glob(f"*{self._path.suffix}"))
            self._place.finish(inside)
        except Exception as error:  # as in copy
            self.discard()
            raise self._place.unwritable(error) from error

    def discard(self) -> None:
        """Give the bag up, unless it is finished; what was written is removed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):
                writer.abort()
        self._place.discard()
