# SPDX-License-Identifier: Apache-2.0
"""The two-stream network computed by engines: the graphs of `export.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracker_ros.arrays import Array, copied, inference, stack
from tracker_ros.engines.embedded import EmbeddedGraph
from tracker_ros.engines.graph import Engine, Graph
from tracker_ros.models.layers.head_maps import HeadMaps, read_maps
from tracker_ros.models.one_stream.on_engines import OneStreamOnEngines
from tracker_ros.models.two_stream.config import TwoStreamConfig


class TwoStreamOnEngines(OneStreamOnEngines):
    """The network on engines.

    Args:
        config: Shapes.
        graphs: See `two_stream_graphs`.
        open_engine: Makes the engine of a graph.
        open_later: See `OneStreamOnEngines`.
    """

    def __init__(
        self,
        config: TwoStreamConfig,
        graphs: Sequence[Graph] | Sequence[EmbeddedGraph],
        open_engine: Callable[[Any], Engine],
        open_later: Callable[[Any], Engine] | None = None,
    ) -> None:
        super().__init__(config, graphs, open_engine, open_later)
        self._later_template = open_engine(graphs[2])
        self._features: Array | None = None

    def read_template(self, sample: int, box_xywh: Array) -> Array:
        """Read a template from a sample of the last pass, at a box (1, 4) as fractions of it."""
        if self._features is None:
            raise RuntimeError("read_template() was called before locate()")
        features = self._features[sample : sample + 1]
        return copied(self._later_template(features=features, box=box_xywh)["tokens"])

    @inference
    def locate(self, template: Any, search: Array) -> HeadMaps:
        """Return the maps of one search region (1, 3, S, S), normalised RGB."""
        return self.locate_batch([template], search)

    @inference
    def locate_batch(self, templates: Sequence[Any], searches: Array) -> HeadMaps:
        """Return the maps of one search region per target (B, 3, S, S), normalised RGB."""
        return self._kept(self._compute([stack(pair, 1) for pair in templates], searches))

    def _kept(self, outputs: dict[str, Array]) -> HeadMaps:
        """Keep the features until the next pass; return the maps."""
        self._features = outputs["features"]
        return read_maps(outputs)
