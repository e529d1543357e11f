# SPDX-License-Identifier: Apache-2.0
"""Which trackers there are, what is known of each, and how to make one.

Listing models imports no network: a family's factory is named by its import path and imported when
one of its models is created.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from tracker_ros.crop import IMAGENET_MEAN, IMAGENET_STD
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.tracker import Tracker

BACKENDS = ("auto", "torch")
PRECISIONS = ("auto", "fp32")

_FACTORIES = {"ostrack": "tracker_ros.models.ostrack.tracker:create_ostrack"}
_OSTRACK_PAPER = "https://arxiv.org/abs/2203.11991"
_OSTRACK_CODE = "https://github.com/botaoye/OSTrack"
_OSTRACK_LICENCE = (
    "code MIT; the authors' weights start from MAE (CC BY-NC 4.0) and were trained on data sets "
    "with terms of their own"
)


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before it is loaded.

    Attributes:
        name: What `create_tracker` takes.
        family: Which code runs it.
        summary: One line.
        template_size: Side of the template crop, pixels.
        search_size: Side of the search crop, pixels.
        mean: Subtracted from RGB in [0, 1].
        std: Divided by.
        paper: Where the method is published.
        code: The authors' code.
        licence: Of the weights.
        parameters: Number of weights that are trained; None while there is no card of the file.
        weights: File name inside the package, or None if `weights=` must be given.
        sha256: Of that file.
        accuracy: Measured figures by name, for the embedded weights.
    """

    name: str
    family: str
    summary: str
    template_size: int
    search_size: int
    paper: str
    code: str
    licence: str
    parameters: int | None
    weights: str | None = None
    sha256: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    accuracy: dict[str, float] = field(default_factory=dict)


_SUMMARIES = {
    "ostrack_tiny": "compact member with convolutional stem, trained here; weights are embedded",
    "ostrack_vitb_256": "ViT-B/16 at 256 px without candidate elimination",
    "ostrack_vitb_256_ce": "ViT-B/16 at 256 px with candidate elimination",
    "ostrack_vitb_384_ce": "ViT-B/16 at 384 px with candidate elimination",
}
_PARAMETERS = {256: 92_518_533, 384: 92_825_733}


def _ostrack_card(name: str) -> ModelCard:
    config = OSTRACK_CONFIGS[name]
    official = name.removesuffix("_got10k")
    trained_on = ", trained on GOT-10k only" if official != name else ""
    if config.stem == "patch":
        return ModelCard(
            name=name,
            family="ostrack",
            summary=_SUMMARIES[official] + trained_on,
            template_size=config.template_size,
            search_size=config.search_size,
            paper=_OSTRACK_PAPER,
            code=_OSTRACK_CODE,
            licence=_OSTRACK_LICENCE,
            parameters=_PARAMETERS[config.search_size],
        )
    facts = _embedded_facts(name)
    return ModelCard(
        name=name,
        family="ostrack",
        summary=_SUMMARIES[name],
        template_size=config.template_size,
        search_size=config.search_size,
        paper=_OSTRACK_PAPER,
        code=_OSTRACK_CODE,
        licence="Apache-2.0",
        parameters=facts.get("parameters"),
        weights=f"{name}.safetensors",
        sha256=facts.get("sha256"),
        accuracy=facts.get("accuracy", {}),
    )


def _embedded_facts(name: str) -> dict[str, Any]:
    """What stands beside an embedded weights file: sha256, parameters, accuracy."""
    card = _embedded_file(f"{name}.json")
    return json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}


def _embedded_file(name: str) -> Path:
    return Path(str(resources.files("tracker_ros"))) / "weights" / name


@lru_cache(maxsize=1)
def _cards() -> dict[str, ModelCard]:
    return {name: _ostrack_card(name) for name in sorted(OSTRACK_CONFIGS)}


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


def create_tracker(
    name: str,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    **options: Any,
) -> Tracker:
    """Make a tracker, ready to be initialised.

    Args:
        name: One of `model_names()`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: A safetensors file; None takes the embedded one.
        backend: `auto` or `torch`.
        precision: `auto` or `fp32`.
        **options: Options of the model's family; OSTrack has none.

    Raises:
        ValueError: An argument is unknown or not available here, the model has no embedded
            weights, or the weights do not fit; the message names value, expectation and remedy.
        FileNotFoundError: The weights file does not exist.
    """
    card = model_card(name)
    for what, value, known in (
        ("backend", backend, BACKENDS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise ValueError(
                f"{what} {value!r} is not available for {name}; expected {' or '.join(known)}"
            )
    if weights is None and card.weights is None:
        raise ValueError(
            f"model {name!r} has no embedded weights; download the authors' checkpoint from "
            f"{card.code} (its model zoo), convert it once with `tracker-ros convert-checkpoint "
            "OSTrack_ep0300.pth.tar weights.safetensors`, and pass weights='weights.safetensors'"
        )
    sha256 = card.sha256 if weights is None else None
    path = Path(weights) if weights is not None else _embedded_file(str(card.weights))
    module, function = _FACTORIES[card.family].split(":")
    factory = getattr(importlib.import_module(module), function)
    return factory(name, device=device, weights=path, sha256=sha256, **options)
