# SPDX-License-Identifier: Apache-2.0
"""The one-stream networks as static graphs: "template", once per target, and "track", per frame.

The modules are those of training (`one_stream_network.py`); what an engine makes faster is its
own affair. Written for this package; the official codes export nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from tracker_ros.crop import box_in_crop, crop_square, normalise
from tracker_ros.engines.graph import Graph, GraphSpec, TensorSpec
from tracker_ros.models.center_head import HeadMaps, decode_box
from tracker_ros.models.one_stream_network import OneStreamNetwork


class TemplateGraph(nn.Module):
    """Template, and the box in it where the network marks the target, to placed tokens."""

    def __init__(self, network: OneStreamNetwork) -> None:
        super().__init__()
        self.backbone = network.backbone

    def forward(self, template: Tensor, box: Tensor | None = None) -> tuple[Tensor]:
        """(1, 3, T, T) normalised RGB, (1, 4) xywh as fractions of it -> (1, Nz, C)."""
        return (self.backbone.embed_template(template, box),)


class TrackGraph(nn.Module):
    """Template tokens and search region to maps; a family says what stands between.

    Args:
        network: Loaded, in eval mode.
    """

    def __init__(self, network: OneStreamNetwork) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def maps(self, template_tokens: Tensor, search_tokens: Tensor) -> HeadMaps:
        """(1, Nz, C) and (1, Nx, C) embedded tokens -> maps."""

    def forward(self, tokens: Tensor, search: Tensor) -> tuple[Tensor, ...]:
        """(1, Nz, C) of "template", (1, 3, S, S) normalised RGB -> the maps of `HeadMaps`."""
        return tuple(self.maps(tokens, self.network.backbone.embed_search(search)))


def one_stream_graphs(track: TrackGraph, settings: str) -> list[Graph]:
    """Graphs "template" and "track".

    Args:
        track: Holds the network.
        settings: See `GraphSpec`.
    """
    network, config = track.network, track.network.config
    template = TemplateGraph(network).eval()
    n, size, region = config.search_grid, config.template_size, config.search_size
    tokens = TensorSpec((1, config.template_grid**2, config.embed_dim))
    crops = (size, config.template_factor, region, config.search_factor)
    crop = {"template": TensorSpec((1, 3, size, size))}
    if config.mark_target:
        crop["box"] = TensorSpec((1, 4))

    def of_template(seed: int) -> dict[str, Tensor]:
        drawn = _example(*crops, seed)
        return {name: drawn[name] for name in crop}

    def of_track(seed: int) -> dict[str, Tensor]:
        with torch.no_grad():
            (embedded,) = template(*of_template(seed).values())
        return {"tokens": embedded, "search": _example(*crops, seed)["search"]}

    maps = {"score": 1, "size": 2, "offset": 2}
    return [
        Graph(
            # Once per target: speed is no reason to give up precision.
            GraphSpec("template", crop, {"tokens": tokens}, half=False, settings=settings),
            template,
            of_template,
        ),
        Graph(
            GraphSpec(
                "track",
                {"tokens": tokens, "search": TensorSpec((1, 3, region, region))},
                {name: TensorSpec((1, channels, n, n)) for name, channels in maps.items()},
                settings=settings,
            ),
            track.eval(),
            of_track,
            _read_boxes,
        ),
    ]


def _read_boxes(outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    maps = HeadMaps(**outputs)
    return decode_box(maps.score, maps), maps.score.flatten(1).amax(dim=1)


@lru_cache(maxsize=32)
def _example(
    template_size: int, template_factor: float, search_size: int, search_factor: float, seed: int
) -> dict[str, Tensor]:
    """Crops of two frames of a synthetic scene, and the target's box in the first."""
    from tracker_ros.synthetic.video import synthetic_video

    first, _, _, later = synthetic_video(seed=seed, frames=4, size=(320, 240))
    template, factor = crop_square(first.image, first.box, template_factor, template_size)
    search, _ = crop_square(later.image, first.box, search_factor, search_size)
    box = box_in_crop(first.box, first.box, factor, template_size)
    return {
        "template": torch.from_numpy(normalise(template)),
        "box": torch.tensor([box], dtype=torch.float32),
        "search": torch.from_numpy(normalise(search)),
    }
