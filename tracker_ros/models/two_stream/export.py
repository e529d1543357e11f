# SPDX-License-Identifier: Apache-2.0
"""The two-stream network as static graphs, made of the modules of `network.py`.

"template" and "later_template" run once per template, "track" once per frame; the latter also
returns the features that a later template may be read from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from tracker_ros.engines.graph import Graph, GraphSpec, TensorSpec
from tracker_ros.models.one_stream.export import crop_sizes, example_crops, read_boxes
from tracker_ros.models.two_stream.network import TwoStreamNetwork


class _Part(nn.Module):
    """A part of the network.

    Args:
        network: Loaded, in eval mode.
    """

    def __init__(self, network: TwoStreamNetwork) -> None:
        super().__init__()
        self.network = network

    def look(self, crops: Tensor) -> Tensor:
        """(B, 3, S, S) normalised RGB -> (B, C + K, n, n) features."""
        return self.network.features(self.network.body_features(crops))


class TemplateGraph(_Part):
    """The first crop, and the box in it, to a template."""

    def forward(self, template: Tensor, box: Tensor) -> tuple[Tensor]:
        """(1, 3, S, S) normalised RGB, (1, 4) xywh as fractions of it -> (1, m * m, C + K)."""
        return (self.network.read_template(self.look(template), box),)


class LaterTemplateGraph(_Part):
    """Features of a search crop, and a box in it, to a template."""

    def forward(self, features: Tensor, box: Tensor) -> tuple[Tensor]:
        """(1, C + K, n, n), (1, 4) xywh as fractions of the crop -> (1, m * m, C + K)."""
        return (self.network.read_template(features, box),)


class TrackGraph(_Part):
    """Templates and search crops to maps and features."""

    def forward(self, tokens: Tensor, search: Tensor) -> tuple[Tensor, ...]:
        """(B, 2, m * m, C + K), (B, 3, S, S) normalised RGB -> maps of `HeadMaps`, features."""
        features = self.look(search)
        return (*self.network.locate(tokens, features), features)


def two_stream_graphs(network: TwoStreamNetwork) -> list[Graph]:
    """Return the graphs "template", "track" and "later_template" of a loaded network."""
    config, settings = network.config, repr(network.config)
    template, later = TemplateGraph(network).eval(), LaterTemplateGraph(network).eval()
    crop = {
        "template": TensorSpec((1, 3, config.template_size, config.template_size)),
        "box": TensorSpec((1, 4)),
    }
    n, width = config.search_grid, config.embed_dim + config.key_dim
    features = {"features": TensorSpec((1, width, n, n)), "box": TensorSpec((1, 4))}
    tokens = {"tokens": TensorSpec((1, config.template_cells**2, width))}

    def of_template(seed: int) -> dict[str, Tensor]:
        drawn = example_crops(*crop_sizes(config), seed)
        return {name: drawn[name] for name in crop}

    def of_later(seed: int) -> dict[str, Tensor]:
        drawn = of_template(seed)
        with torch.no_grad():
            return {"features": template.look(drawn["template"]), "box": drawn["box"]}

    # Once per target: speed is no reason to give up precision.
    once = GraphSpec("template", crop, tokens, half=False, settings=settings)
    return [
        Graph(once, template, of_template),
        _track_graph(TrackGraph(network).eval(), template, settings, 1),
        Graph(replace(once, name="later_template", inputs=features), later, of_later),
    ]


def _track_graph(track: TrackGraph, template: TemplateGraph, settings: str, samples: int) -> Graph:
    """Return the graph "track" of one target, or "track_N" of N."""
    config = track.network.config
    n, region, width = config.search_grid, config.search_size, config.embed_dim + config.key_dim

    def of_track(seed: int) -> dict[str, Tensor]:
        # Each sample is another one, so that it shows if they are mixed up.
        drawn = [example_crops(*crop_sizes(config), seed * samples + i) for i in range(samples)]
        with torch.no_grad():
            read = torch.cat([template(one["template"], one["box"])[0] for one in drawn])
        return {
            "tokens": torch.stack([read] * config.templates, 1),
            "search": torch.cat([one["search"] for one in drawn]),
        }

    spec = GraphSpec(
        "track" if samples == 1 else f"track_{samples}",
        {
            "tokens": TensorSpec((samples, config.templates, config.template_cells**2, width)),
            "search": TensorSpec((samples, 3, region, region)),
        },
        {
            name: TensorSpec((samples, channels, n, n))
            for name, channels in {"score": 1, "size": 2, "offset": 2, "features": width}.items()
        },
        settings=settings,
    )
    batched = partial(_track_graph, track, template, settings)
    return Graph(spec, track, of_track, read_boxes, samples, batched)
