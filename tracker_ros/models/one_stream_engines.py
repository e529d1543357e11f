# SPDX-License-Identifier: Apache-2.0
"""A one-stream network computed by engines, in place of the hand-written inference classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tracker_ros.engines.graph import Engine, Graph, facts_of
from tracker_ros.models.center_head import HeadMaps
from tracker_ros.models.one_stream_config import OneStreamConfig


class OneStreamOnEngines:
    """OSTrack or GRM.

    Args:
        config: Shapes.
        graphs: "template" and "track", see `one_stream_graphs.py`.
        open_engine: Makes the engine of a graph.
    """

    def __init__(
        self,
        config: OneStreamConfig,
        graphs: list[Graph],
        open_engine: Callable[[Graph], Engine],
    ) -> None:
        self.config = config
        self._template, self._track = (open_engine(graph) for graph in graphs)

    @property
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return facts_of(self._track, [self._template])

    def encode_template(self, template: Tensor, box_xywh: Tensor) -> Tensor:
        """Embed a template.

        Args:
            template: (1, 3, T, T) normalised RGB.
            box_xywh: (1, 4) target box as fractions of the template crop.
        """
        given = {"template": template, "box": box_xywh}
        tokens = self._template(**{name: given[name] for name in self._template.spec.inputs})
        # An engine may reuse its memory, and this is kept.
        return tokens["tokens"].clone()

    @torch.inference_mode()
    def locate(self, template: Tensor, search: Tensor) -> HeadMaps:
        """Maps of one search region (1, 3, S, S), normalised RGB."""
        return HeadMaps(**self._track(tokens=template, search=search))
