# SPDX-License-Identifier: Apache-2.0
"""OSTrack and GRM computed by engines: the graphs of `export.py`, on NumPy arrays or tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from tracker_ros.arrays import Array, concatenate, copied, inference
from tracker_ros.engines.embedded import EmbeddedGraph, EmbeddedModel
from tracker_ros.engines.graph import Engine, Graph, collect_runtime_info
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.layers.head_maps import HeadMaps, read_maps
from tracker_ros.models.one_stream.config import CropConfig

if TYPE_CHECKING:
    import torch

TOGETHER = (8, 4, 2)
"""How many targets there are graphs for, besides one."""

_LOG = logging.getLogger(__name__)


_Kind = TypeVar("_Kind")


def crop_device(engine: Engine) -> torch.device | None:
    """Return where an engine takes its inputs best; None for ONNX Runtime, which takes NumPy's."""
    if engine.backend == "onnxruntime":
        return None
    import torch

    return torch.device(engine.device)


def open_later(backend: Backend | EmbeddedModel) -> Callable[[Any], Engine]:
    """Return what opens graphs between images: it neither exports nor builds."""
    later = backend if isinstance(backend, EmbeddedModel) else replace(backend, build=False)
    return later.open


class SearchEngines:
    """The engines of a graph that searches: for one target, and for several at once.

    Args:
        graph: For one target.
        open_engine: Makes the engine of a graph.
        open_later: The same for graphs of several targets, when so many are there for the first
            time; images wait for it. None if there are no such engines.

    Attributes:
        one: The engine for one target.
    """

    def __init__(
        self,
        graph: Graph | EmbeddedGraph,
        open_engine: Callable[[Any], Engine],
        open_later: Callable[[Any], Engine] | None,
    ) -> None:
        self.one = open_engine(graph)
        self._batched, self._open_later = graph.batched, open_later
        self._together: dict[int, Engine | None] = {}

    @property
    def opened(self) -> list[Engine]:
        """All engines that are open."""
        return [self.one, *(engine for engine in self._together.values() if engine is not None)]

    def trim(self) -> None:
        """Close the engines for several targets, unless they are on a GPU."""
        if self.one.device == "cpu":
            self._together = {n: engine for n, engine in self._together.items() if engine is None}

    def compute(self, templates: Sequence[Array], searches: Array) -> dict[str, Array]:
        """Return the graph's outputs by name for one search region per target.

        They take one pass if there is an engine for as many targets or more, else several.
        """
        engine, samples = self._for(len(templates))
        now, later = templates[:samples], templates[samples:]
        outputs = engine(
            tokens=_filled(now[0] if samples == 1 else concatenate(now), samples),
            search=_filled(searches[:samples], samples),
        )
        found = {name: of_all[: len(now)] for name, of_all in outputs.items()}
        if not later:
            return found
        # The next pass may be computed in the same memory.
        kept = {name: copied(of_all) for name, of_all in found.items()}
        others = self.compute(later, searches[samples:])
        return {name: concatenate([kept[name], others[name]]) for name in kept}

    def _for(self, count: int) -> tuple[Engine, int]:
        """Return an engine for this many targets or fewer, and the number that it is for."""
        for samples in self._worth_trying(count):
            engine = self._several(samples)
            if engine is not None:
                return engine, samples
        return self.one, 1

    def _worth_trying(self, count: int) -> Iterator[int]:
        larger = [samples for samples in TOGETHER if samples >= count > 1]
        # A GPU computes two more in hardly any time, a CPU does not.
        if larger and self.one.device != "cpu":
            yield larger[-1]
        yield from (samples for samples in TOGETHER if samples <= count)

    def _several(self, samples: int) -> Engine | None:
        """Return the engine for this many targets; None if there is none."""
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


class OneStreamOnEngines:
    """OSTrack or GRM, computed by engines.

    Args:
        config: Shapes.
        graphs: Those of `CropConfig.graphs`, in that order.
        open_engine: Makes the engine of a graph.
        open_later: See `SearchEngines`.

    Attributes:
        device: Where crops are best handed over; None for NumPy arrays.
    """

    def __init__(
        self,
        config: CropConfig,
        graphs: Sequence[Graph] | Sequence[EmbeddedGraph],
        open_engine: Callable[[Any], Engine],
        open_later: Callable[[Any], Engine] | None = None,
    ) -> None:
        self.config = config
        template, *searching = graphs[: len(config.graphs)]
        self._template = open_engine(template)
        self._searches = {
            graph.spec.inputs["search"].shape[-1]: SearchEngines(graph, open_engine, open_later)
            for graph in searching
        }
        self.device = crop_device(self._whole.one)

    @property
    def _whole(self) -> SearchEngines:
        """The engines for whole search crops."""
        return self._searches[self.config.search_size]

    @classmethod
    def on_backend(
        cls: Callable[..., _Kind],
        config: CropConfig,
        graphs: Sequence[Graph] | Sequence[EmbeddedGraph],
        backend: Backend | EmbeddedModel,
    ) -> _Kind:
        """Return a network on the engines of a back end, which exports and builds now or never.

        Raises EngineUnavailable as `Backend.open` does.
        """
        return cls(config, graphs, backend.open, open_later(backend))

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        searching = [engine for each in self._searches.values() for engine in each.opened]
        usual = self._searches[min(self._searches)].one
        return collect_runtime_info(usual, [self._template, *searching])

    def trim(self) -> None:
        """Free the engines for several targets: 30 MB and more each, opened in 0.1 s on a CPU.

        A GPU keeps them, since there some are built or recorded first.
        """
        for engines in self._searches.values():
            engines.trim()

    def encode_template(self, template: Array, box_xywh: Array) -> Array:
        """Embed a (1, 3, T, T) normalised template with its (1, 4) box as fractions of it."""
        given = {"template": template, "box": box_xywh}
        tokens = self._template(**{name: given[name] for name in self._template.spec.inputs})
        # An engine may reuse its memory, and this is kept.
        return copied(tokens["tokens"])

    @inference
    def locate(self, template: Any, search: Array) -> HeadMaps:
        """Return the maps of one search region (1, 3, S, S), normalised RGB."""
        return read_maps(self._compute([template], search))

    @inference
    def locate_batch(self, templates: Sequence[Any], searches: Array) -> HeadMaps:
        """Return the maps of one search region per target, (B, 3, S, S) normalised RGB."""
        return read_maps(self._compute(templates, searches))

    def _compute(self, templates: Sequence[Array], searches: Array) -> dict[str, Array]:
        """Return the outputs by name for one search region per target, all of one size."""
        return self._searches[searches.shape[-1]].compute(templates, searches)


def _filled(batch: Array, samples: int) -> Array:
    """(B, ...) -> (samples, ...), the last one repeated."""
    missing = samples - len(batch)
    return concatenate([batch, *[batch[-1:]] * missing]) if missing else batch
