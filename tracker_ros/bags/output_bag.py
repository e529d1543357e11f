# SPDX-License-Identifier: Apache-2.0
"""The bag that a run writes: the node's topics, and the input's messages if they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tracker_ros.bags.follow import BagReport
from tracker_ros.bags.outputs import TOPICS, BagOutputs
from tracker_ros.io.bag_reader import BagReader
from tracker_ros.io.bag_writer import BagWriter


class OutputBag:
    """Writes what a node would publish, in the order of time; an empty namespace stands for none.

    Raises ValueError or OSError as `BagWriter` does.
    """

    def __init__(
        self, path: Path, outputs: BagOutputs, namespace: str = "", *, compress: bool = False
    ) -> None:
        self._outputs = outputs
        self._prefix = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
        self._writer = BagWriter(path, compress=compress)
        self._input: Iterator[tuple[str, int, bytes]] = iter(())
        self._waiting: tuple[str, int, bytes] | None = None
        for name, kind in TOPICS.items():
            self._writer.add_topic(self._prefix + name, kind)

    def copy_input(self, reader: BagReader, tell: Callable[[str], object]) -> None:
        """Copy the messages of a bag, too; tell of topics that cannot be copied.

        Raises ValueError if a topic would be in the bag twice.
        """
        copied = []
        for topic in reader.topics.values():
            if self._writer.copy_topic(topic):
                copied.append(topic.name)
            else:
                tell(
                    f"topic {topic.name} is not copied: its type {topic.kind} is not known, and "
                    "the bag holds no definition of it"
                )
        self._input = reader.messages(copied)
        self._waiting = next(self._input, None)

    def add(self, given: BagReport) -> None:
        """Write the messages of a report, and the input up to its time."""
        self._copy_until(given.time_ns)
        for name, content in self._outputs.contents(given):
            self._writer.write(self._prefix + name, given.time_ns, content)

    def _copy_until(self, time_ns: int | None) -> None:
        while self._waiting is not None and (time_ns is None or self._waiting[1] <= time_ns):
            self._writer.copy(*self._waiting)
            self._waiting = next(self._input, None)

    def finish(self, complete: bool) -> None:
        """Complete the bag; with the rest of the input only if the run has come to its end."""
        if complete:
            self._copy_until(None)
        self._writer.finish()

    def discard(self) -> None:
        """Remove what was written."""
        self._writer.discard()
