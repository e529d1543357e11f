# SPDX-License-Identifier: Apache-2.0
"""OSTrack and GRM as static graphs: "template", once per target, and "track", once per frame.

A further graph "track_Npx" takes the narrow search crop, where the configuration has one.

The graphs are made of the modules of training (`network.py`); it is left to the engine to make
them fast. Written for this package; the official codes export nothing. GRM's division stays what
it is there: a mask within a softmax in float32. An additive mask would leave out the trace of
weight that the official softmax gives to masked pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from tracker_ros.crops import box_in_crop, crop_square, normalize
from tracker_ros.engines.graph import Graph, GraphSpec, TensorSpec
from tracker_ros.models.layers.center_head import HeadMaps, decode_box
from tracker_ros.models.layers.head_maps import read_maps
from tracker_ros.models.one_stream.candidate_elimination import RankingRows, ranking_rows
from tracker_ros.models.one_stream.config import CropConfig, OneStreamConfig
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.network import OneStreamNetwork, TemplateEmbedding
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.tracker import example_image


class TemplateGraph(TemplateEmbedding):
    """Turns a template, and the box in it if the network marks the target, into placed tokens."""

    def __init__(self, network: OneStreamNetwork) -> None:
        super().__init__()
        backbone = network.backbone
        self.config = backbone.config
        self.patch_embed, self.pos_embed_z = backbone.patch_embed, backbone.pos_embed_z
        if self.config.mark_target:
            self.target_mark = backbone.target_mark

    def forward(self, template: Tensor, box: Tensor | None = None) -> tuple[Tensor]:
        """(1, 3, T, T) normalised RGB, (1, 4) xywh as fractions of it -> (1, Nz, C)."""
        return (self.embed_template(template, box),)


class TrackGraph(nn.Module):
    """Turns template tokens and search regions into maps; a family says how."""

    float_layers: tuple[str, ...] = ("blocks.0.attn",)
    """Names of modules whose linear layers stay float32 in int8. All blocks pass on what the first
    attention rounds: in float32, boxes differ a third less."""

    def __init__(self, network: OneStreamNetwork) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def maps(self, template_tokens: Tensor, search_tokens: Tensor) -> HeadMaps:
        """(B, Nz, C) and (B, Nx, C) embedded tokens -> maps."""

    def forward(self, tokens: Tensor, search: Tensor) -> tuple[Tensor, ...]:
        """(B, Nz, C) of "template", (B, 3, S, S) normalised RGB -> the maps of `HeadMaps`."""
        return tuple(self.maps(tokens, self.network.backbone.embed_search(search)))


def one_stream_graphs(track: TrackGraph, settings: str) -> list[Graph]:
    """Return the graphs of `CropConfig.graphs`; all but "template" also for several targets."""
    config = track.network.config
    template = TemplateGraph(track.network).eval()
    crop = {"template": TensorSpec((1, 3, config.template_size, config.template_size))}
    if config.mark_target:
        crop["box"] = TensorSpec((1, 4))
    tokens = {"tokens": _tokens(config, 1)}

    def of_template(seed: int) -> dict[str, Tensor]:
        drawn = example_crops(*crop_sizes(config), seed)
        return {name: drawn[name] for name in crop}

    # Once per target: speed is no reason to give up precision.
    spec = GraphSpec("template", crop, tokens, half=False, settings=settings)
    sizes = (config, config.narrowed()) if config.narrow_grid else (config,)
    return [
        Graph(spec, template, of_template),
        *(
            _track_graph(track.eval(), template, name, size, settings, 1)
            for name, size in zip(config.graphs[1:], sizes, strict=True)
        ),
    ]


def _track_graph(
    track: TrackGraph,
    template: TemplateGraph,
    name: str,
    config: OneStreamConfig,
    settings: str,
    samples: int,
) -> Graph:
    """Return the graph of this name for search crops of a size, of one target or of several."""
    n, region = config.search_grid, config.search_size

    def of_track(seed: int) -> dict[str, Tensor]:
        # Each sample is another one, so that it shows if they are mixed up.
        drawn = [example_crops(*crop_sizes(config), seed * samples + i) for i in range(samples)]
        with torch.no_grad():
            embedded = [template.embed_template(one["template"], one["box"]) for one in drawn]
        return {
            "tokens": torch.cat(embedded),
            "search": torch.cat([one["search"] for one in drawn]),
        }

    spec = GraphSpec(
        name if samples == 1 else f"{name}_{samples}",
        {"tokens": _tokens(config, samples), "search": TensorSpec((samples, 3, region, region))},
        {
            name: TensorSpec((samples, channels, n, n))
            for name, channels in {"score": 1, "size": 2, "offset": 2}.items()
        },
        settings=settings,
    )
    batched = partial(_track_graph, track, template, name, config, settings)
    return Graph(spec, track, of_track, read_boxes, samples, batched, track.float_layers)


def _tokens(config: OneStreamConfig, samples: int) -> TensorSpec:
    return TensorSpec((samples, config.template_grid**2, config.embed_dim))


def crop_sizes(config: CropConfig) -> tuple[int, float, int, float]:
    """Return size and factor of the template's crop, and of the search crop."""
    template = (config.template_size, config.template_factor)
    return (*template, config.search_size, config.search_factor)


def read_boxes(outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the boxes (B, 4) cxcywh at the peaks of the maps that "track" returns, and scores."""
    maps = read_maps(outputs)
    return decode_box(maps.score, maps), maps.score.flatten(1).amax(dim=1)


@lru_cache(maxsize=32)
def example_crops(
    template_size: int, template_factor: float, search_size: int, search_factor: float, seed: int
) -> dict[str, Tensor]:
    """Return crops of two images in which the target has moved, and its box in the first crop."""
    first, place = example_image(240, 320, seed)
    later, _ = example_image(240, 320, seed, moved=(9, -5))
    template, factor = crop_square(first, place, template_factor, template_size)
    search, _ = crop_square(later, place, search_factor, search_size)
    box = box_in_crop(place, place, factor, template_size)
    return {
        "template": torch.from_numpy(normalize(template)),
        "box": torch.tensor([box], dtype=torch.float32),
        "search": torch.from_numpy(normalize(search)),
    }


class OSTrackGraph(TrackGraph):
    """Search region to maps; the number of candidates and the ranking tokens are fixed."""

    network: OSTrackNetwork
    position: Tensor
    weight: Tensor

    def __init__(self, network: OSTrackNetwork) -> None:
        super().__init__(network)
        config = network.config
        if config.ce_template_range == "GT_BOX" and config.ce_layers:
            raise ValueError(
                "ce_template_range 'GT_BOX' ranks by tokens that differ from target to target, "
                "which a static graph cannot; expected ALL, CTR_POINT or CTR_REC"
            )
        rows = ranking_rows(
            network.template_mask(torch.zeros(1, 4)),
            1,
            config.template_grid**2,
            torch.device("cpu"),
        )
        self.register_buffer("position", rows.position)
        self.register_buffer("weight", rows.weight)

    def maps(self, template_tokens: Tensor, search_tokens: Tensor) -> HeadMaps:
        """(B, Nz, C) and (B, Nx, C) embedded tokens -> maps."""
        batch = len(search_tokens)
        rows = RankingRows(self.position.expand(batch, -1), self.weight.expand(batch, -1))
        return self.network.head(self.network.backbone(template_tokens, search_tokens, rows))


def ostrack_graphs(network: OSTrackNetwork) -> list[Graph]:
    """Return the graphs of a loaded network; see `one_stream_graphs`."""
    return one_stream_graphs(OSTrackGraph(network), repr(network.config))


class GRMGraph(TrackGraph):
    """Search region to maps, with the threshold of the division fixed."""

    network: GRMNetwork
    float_layers = (*TrackGraph.float_layers, "divide_predict")

    def __init__(self, network: GRMNetwork, threshold: float) -> None:
        super().__init__(network)
        if network.config.target_type.startswith("roi"):
            raise ValueError(
                f"target type {network.config.target_type!r} reads the target's box in every "
                "frame, which these grm_graphs do not take; expected allmax or allavg"
            )
        self.threshold = threshold

    def maps(self, template_tokens: Tensor, search_tokens: Tensor) -> HeadMaps:
        """(B, Nz, C) and (B, Nx, C) embedded tokens -> maps."""
        tokens, _ = self.network.backbone(template_tokens, search_tokens, threshold=self.threshold)
        return self.network.maps(tokens[:, template_tokens.shape[1] :])


def grm_graphs(network: GRMNetwork, threshold: float = 0.0) -> list[Graph]:
    """Return the graphs of a loaded network with a fixed threshold; see `one_stream_graphs`."""
    return one_stream_graphs(GRMGraph(network, threshold), network.config.settings(threshold))
