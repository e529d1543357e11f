# SPDX-License-Identifier: Apache-2.0
"""Which trackers there are, and how to make one.

Listing models imports no network: a family's code is named by its import path and imported when
one of its models is created.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cache_folder import cache_folder
from tracker_ros.cards import ModelCard, embedded_file
from tracker_ros.devices import resolve_device
from tracker_ros.model_options import checked_options
from tracker_ros.models.grm import cards as grm_cards
from tracker_ros.models.mast import cards as mast_cards
from tracker_ros.models.ostrack import cards as ostrack_cards
from tracker_ros.models.trdimp import cards as trdimp_cards
from tracker_ros.tracker import Tracker

if TYPE_CHECKING:
    from torch import nn

    from tracker_ros.engines.backend import Backend
    from tracker_ros.engines.graph import Graph

BACKENDS = ("auto", "torch", "onnxruntime", "tensorrt")
_EXPORTED_UNASKED_BYTES = 32_000_000
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Family:
    """Code that runs several models.

    Attributes:
        cards: Its models.
        module: Where it builds them: `empty_network(name)` and `create(name, ...)`.
    """

    cards: tuple[ModelCard, ...]
    module: str


@lru_cache(maxsize=1)
def _families() -> dict[str, Family]:
    return {
        "grm": Family(tuple(grm_cards.cards()), "tracker_ros.models.grm.create"),
        "mast": Family(tuple(mast_cards.cards()), "tracker_ros.models.mast.create"),
        "ostrack": Family(tuple(ostrack_cards.cards()), "tracker_ros.models.ostrack.create"),
        "trdimp": Family(tuple(trdimp_cards.cards()), "tracker_ros.models.trdimp.create"),
    }


@lru_cache(maxsize=1)
def _cards() -> dict[str, ModelCard]:
    cards = [card for family in _families().values() for card in family.cards]
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def _code_of(card: ModelCard) -> Any:
    return importlib.import_module(_families()[card.family].module)


def model_names() -> list[str]:
    """Every model that `create_tracker` knows, sorted."""
    return list(_cards())


def model_card(name: str) -> ModelCard:
    """What is known of a model.

    Raises:
        ValueError: There is no such model; the message names similar ones.
    """
    cards = _cards()
    if name not in cards:
        close = difflib.get_close_matches(name, cards, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(cards)}"
        raise ValueError(f"model {name!r} is unknown; {hint}")
    return cards[name]


def empty_network(name: str) -> nn.Module:
    """A model's network with its keys and shapes but no values (on torch's meta device).

    Raises:
        ValueError: There is no such model.
    """
    return _code_of(model_card(name)).empty_network(name)


def create_tracker(
    name: str,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    engine_cache_dir: str | os.PathLike[str] | None = None,
    build_engine: bool = True,
    **options: Any,
) -> Tracker:
    """Make a tracker, ready to be initialised.

    Args:
        name: One of `model_names()`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: A safetensors file; None takes the embedded one.
        backend: `auto`, `torch`, `onnxruntime` or `tensorrt`; see `tracker_ros.engines.choose`.
        precision: `auto`; `fp32`; `fp16` on GPUs and in ONNX Runtime; `bf16` and `int8` in torch
            on CPUs.
        engine_cache_dir: Where exported graphs and built engines are kept; None for the user's
            cache.
        build_engine: Whether what is not there may be exported, for seconds, and built, for
            minutes. `auto` exports small networks for ONNX Runtime on a CPU, and builds nothing.
        **options: Options of the model's family, see `create` in its module: `threshold` for GRM,
            `working_size`, `start_shape` and others for MAST, `seed` for TrDiMP and TrSiam;
            OSTrack has none. They may be texts, as on a command line.

    Raises:
        ValueError: An argument is unknown or not available here, the model has no embedded
            weights, or the weights do not fit; the message names value, expectation and remedy.
        FileNotFoundError: The weights file does not exist.
    """
    for what, value, known in (
        ("backend", backend, BACKENDS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise ValueError(
                f"{what} {value!r} is not available for {name}; expected {' or '.join(known)}"
            )
    make = _maker(name, weights, options)
    if backend == "auto" and _is_large(_weights_path(name, weights)):
        build_engine = False
    from tracker_ros.engines.backend import Backend
    from tracker_ros.engines.choose import open_tracker

    cache = _engine_folder(backend) if engine_cache_dir is None else Path(engine_cache_dir)
    wanted = Backend(backend, resolve_device(device), precision, name, cache, build_engine)
    return open_tracker(make, wanted)


def _is_large(weights: Path) -> bool:
    """Whether exporting a network takes minutes and gigabytes, to be spent on demand only."""
    return weights.is_file() and weights.stat().st_size > _EXPORTED_UNASKED_BYTES


def _engine_folder(backend: str) -> Path:
    """Where engines are kept; where there is no home, a folder in which nothing can be."""
    try:
        return cache_folder("engines")
    except RuntimeError as error:
        if backend in ("onnxruntime", "tensorrt"):
            raise ValueError(f"{error}, or give engine_cache_dir") from error
        return Path(os.devnull) / "engines"


def model_graphs(
    name: str, weights: str | os.PathLike[str] | None = None, **options: Any
) -> list[Graph]:
    """The static graphs that a model's engines compute.

    Args:
        name: See `create_tracker`, also for the others and for what is raised.
        weights: A safetensors file; None takes the embedded one.
        **options: Of the model's family.
    """
    from tracker_ros.engines.backend import collect_graphs

    return collect_graphs(_maker(name, weights, options))


def _weights_path(name: str, weights: str | os.PathLike[str] | None) -> Path:
    """The file that a model's weights are read from."""
    card = model_card(name)
    if weights is not None:
        return Path(weights)
    if card.weights is None:
        raise ValueError(
            f"model {name!r} has no embedded weights; download the authors' checkpoint from "
            f"{card.code} (its model zoo), convert it once with `tracker-ros convert-checkpoint "
            f"{card.checkpoint} weights.safetensors`, and pass weights='weights.safetensors'"
        )
    return embedded_file(card.weights)


def _maker(
    name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any]
) -> Callable[[Backend], Tracker]:
    """What makes a model's tracker on a back end; everything else is checked here."""
    card, path = model_card(name), _weights_path(name, weights)
    sha256 = card.sha256 if weights is None else None
    factory = _code_of(card).create
    checked = checked_options(factory, name, ("backend", "weights", "sha256"), options)
    return lambda backend: factory(name, backend=backend, weights=path, sha256=sha256, **checked)
