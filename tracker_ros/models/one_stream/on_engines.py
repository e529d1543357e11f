# SPDX-License-Identifier: Apache-2.0
"""A one-stream network computed by engines, in place of the hand-written inference classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tracker_ros.engines.graph import Engine, Graph, collect_runtime_info
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.one_stream.config import OneStreamConfig

TOGETHER = (8, 4, 2)
"""How many targets there are graphs for, besides one."""

_LOG = logging.getLogger(__name__)


def on_backend(
    config: OneStreamConfig, graphs: Sequence[Graph], backend: Backend
) -> OneStreamOnEngines:
    """A network on the engines of a back end, which exports and builds now or never.

    Raises:
        EngineUnavailable: See `Backend.open`.
    """
    return OneStreamOnEngines(config, graphs, backend.open, replace(backend, build=False).open)


class OneStreamOnEngines:
    """OSTrack or GRM.

    Args:
        config: Shapes.
        graphs: "template" and "track", see `one_stream_graphs.py`.
        open_engine: Makes the engine of a graph.
        open_later: The same for graphs of several targets, when there first are so many; images
            wait for it. None if there are no such engines.

    Attributes:
        device: Where crops are best handed over.
    """

    def __init__(
        self,
        config: OneStreamConfig,
        graphs: Sequence[Graph],
        open_engine: Callable[[Graph], Engine],
        open_later: Callable[[Graph], Engine] | None = None,
    ) -> None:
        self.config = config
        self._template, self._track = (open_engine(graph) for graph in graphs)
        self._batched, self._open_later = graphs[1].batched, open_later
        self._together: dict[int, Engine | None] = {}
        through_cpu = self._track.backend == "onnxruntime"
        self.device = torch.device("cpu" if through_cpu else self._track.device)

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        together = [engine for engine in self._together.values() if engine is not None]
        return collect_runtime_info(self._track, [self._template, *together])

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

    @torch.inference_mode()
    def locate_batch(self, templates: Sequence[Tensor], searches: Tensor) -> HeadMaps:
        """Maps of one search region per target (B, 3, S, S), normalised RGB.

        In one pass where there is an engine for as many targets or more, else in several.
        """
        engine, samples = self._for(len(templates))
        now, later = templates[:samples], templates[samples:]
        maps = engine(
            tokens=_filled(torch.cat(list(now)), samples),
            search=_filled(searches[:samples], samples),
        )
        found = HeadMaps(**{name: of_all[: len(now)] for name, of_all in maps.items()})
        if not later:
            return found
        # The next pass may be computed in the same memory.
        kept = [of_all.clone() for of_all in found]
        others = self.locate_batch(later, searches[samples:])
        return HeadMaps(*(torch.cat(both) for both in zip(kept, others, strict=True)))

    def _for(self, count: int) -> tuple[Engine, int]:
        """An engine for so many targets or fewer, and for how many it is."""
        for samples in self._worth_trying(count):
            engine = self._opened(samples)
            if engine is not None:
                return engine, samples
        return self._track, 1

    def _worth_trying(self, count: int) -> Iterator[int]:
        larger = [samples for samples in TOGETHER if samples >= count > 1]
        # A GPU computes two more in hardly any time, a CPU does not.
        if larger and self._track.device != "cpu":
            yield larger[-1]
        yield from (samples for samples in TOGETHER if samples <= count)

    def _opened(self, samples: int) -> Engine | None:
        """The engine for so many targets; None if there is none."""
        if self._open_later is None or self._batched is None:
            return None
        if samples not in self._together:
            try:
                self._together[samples] = self._open_later(self._batched(samples))
            except RuntimeError as error:  # EngineUnavailable, or the memory does not suffice
                if None not in self._together.values():
                    _LOG.info(
                        "%d targets cannot be looked at together, and take several passes; "
                        "`tracker-ros export --targets %d` prepares for that beforehand (%s)",
                        samples,
                        samples,
                        error,
                    )
                self._together[samples] = None
        return self._together[samples]


def _filled(batch: Tensor, samples: int) -> Tensor:
    """(B, ...) -> (samples, ...), the last one over and over."""
    missing = samples - len(batch)
    return torch.cat([batch, *[batch[-1:]] * missing]) if missing else batch
