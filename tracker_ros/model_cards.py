# SPDX-License-Identifier: Apache-2.0
"""The one list of families and models: who made each, which code runs it, where its weights are.

Imports neither torch nor a network, so listing models is cheap. Facts about embedded weights are
read from `weights/*.json`, the cards that training writes beside the weights.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from tracker_ros.calibration import Calibration
from tracker_ros.crops import IMAGENET_MEAN, IMAGENET_STD
from tracker_ros.model_options import Settings
from tracker_ros.models.mast.config import MAST_MODELS
from tracker_ros.models.mast.config import settings as mast_settings
from tracker_ros.models.one_stream.config import (
    GRM_CONFIGS,
    OSTRACK_CONFIGS,
    grm_settings,
    ostrack_settings,
)
from tracker_ros.models.trdimp.config import TINY_WEIGHTS, TRDIMP_MODELS
from tracker_ros.models.trdimp.config import settings as trdimp_settings
from tracker_ros.models.two_stream.config import TWO_STREAM_CONFIGS
from tracker_ros.models.two_stream.config import settings as two_stream_settings


@dataclass(frozen=True)
class Family:
    """A method that several models share.

    Import paths are written "module:name", so that nothing is imported before it is used.
    """

    name: str  # lower case
    models: Mapping[str, Any]  # configurations of its models by name
    create: str  # import path of the factory of its trackers, see `registry.create_tracker`
    network: str  # import path of the function that makes a model's network, given its name
    training: str  # import path of the task that trains it
    # returns what options may change of a model, beside the factory's own arguments
    settings: Callable[[str], Settings]
    paper: str  # where the method is published
    code: str  # the authors' code
    licence: str  # of the authors' weights
    checkpoint: str | None  # file name of the authors' weights; None if there are none


_MAE_LICENCE = (
    "code MIT; the authors' weights start from MAE (CC BY-NC 4.0) and were trained on data sets "
    "with terms of their own"
)

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="grm",
            models=GRM_CONFIGS,
            create="tracker_ros.models.one_stream.factory:create_grm",
            network="tracker_ros.models.one_stream.factory:empty_network",
            training="tracker_ros.training.tasks.pair:GRMTask",
            settings=grm_settings,
            paper="https://arxiv.org/abs/2303.16580",
            code="https://github.com/Little-Podi/GRM",
            licence=_MAE_LICENCE,
            checkpoint="GRM_ep0300.pth.tar",
        ),
        Family(
            name="mast",
            models=MAST_MODELS,
            create="tracker_ros.models.mast.factory:create_mast",
            network="tracker_ros.models.mast.factory:empty_network",
            training="tracker_ros.training.tasks.reconstruction:ReconstructionTask",
            settings=mast_settings,
            paper="https://arxiv.org/abs/2002.07793",
            code="https://github.com/zlai0/MAST",
            licence="the authors state none, neither for their code nor for their weights",
            checkpoint="checkpoint.pt",
        ),
        Family(
            name="ostrack",
            models=OSTRACK_CONFIGS,
            create="tracker_ros.models.one_stream.factory:create_ostrack",
            network="tracker_ros.models.one_stream.factory:empty_network",
            training="tracker_ros.training.tasks.pair:OSTrackTask",
            settings=ostrack_settings,
            paper="https://arxiv.org/abs/2203.11991",
            code="https://github.com/botaoye/OSTrack",
            licence=_MAE_LICENCE,
            checkpoint="OSTrack_ep0300.pth.tar",
        ),
        Family(
            name="trdimp",
            models=TRDIMP_MODELS,
            create="tracker_ros.models.trdimp.factory:create_trdimp",
            network="tracker_ros.models.trdimp.factory:empty_network",
            training="tracker_ros.training.tasks.clip:ClipTask",
            settings=trdimp_settings,
            paper="https://arxiv.org/abs/2103.11681",
            code="https://github.com/594422814/TransformerTrack",
            licence="code MIT, on top of pytracking (GPL-3.0); the authors' weights start from an "
            "ImageNet ResNet-50 and were trained on data sets with terms of their own",
            checkpoint="trdimp_net.pth.tar",
        ),
        Family(
            name="two_stream",
            models=TWO_STREAM_CONFIGS,
            create="tracker_ros.models.two_stream.factory:create_two_stream",
            network="tracker_ros.models.two_stream.factory:empty_network",
            training="tracker_ros.training.tasks.track:TrackTask",
            settings=two_stream_settings,
            # This package's own design; FEAR is the nearest that is published.
            paper="https://arxiv.org/abs/2112.07957",
            code="https://github.com/PinataFarms/FEARTracker",
            licence="Apache-2.0, the pretrained body's too",
            checkpoint=None,
        ),
    )
}


def family_of(name: str) -> Family:
    """Return the family of a model; raises ValueError, with similar names, if there is none."""
    for family in FAMILIES.values():
        if name in family.models:
            return family
    known = sorted(model for family in FAMILIES.values() for model in family.models)
    raise ValueError(f"model {name!r} is unknown; {similar_names(name, known)}")


def similar_names(name: str, known: Collection[str]) -> str:
    """Return a hint that lists the known names most similar to an unknown one, or all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model, known before it is loaded."""

    name: str  # the name that `create_tracker` takes
    family: str  # name of its family, a key of `FAMILIES`
    summary: str  # one line
    template_size: int  # side of the crop of the first image, pixels
    search_size: int  # side of the crops of later images, pixels
    paper: str  # where the method is published
    code: str  # the authors' code
    licence: str  # of the weights
    parameters: int | None  # number of trained weights; None for embedded weights without a card
    weights: str | None = None  # file name inside the package, or None if `weights=` must be given
    sha256: str | None = None  # of that file
    # the authors' file to convert, for models without embedded weights
    checkpoint: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN  # subtracted from RGB in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # divides the result
    # measured figures by name, for embedded weights
    accuracy: dict[str, float] = field(default_factory=dict)
    # how likely results are right, for embedded weights of which it was measured
    calibration: Calibration | None = None


def embedded_file(name: str) -> Path:
    """Return the path of a file in the package's `weights` folder, whether it exists or not."""
    return Path(str(resources.files("tracker_ros"))) / "weights" / name


def embedded_graphs(weights: str) -> Path:
    """Return the folder of the graphs made of embedded weights, whether it exists or not.

    The weights are named by the stem of their file.
    """
    return Path(str(resources.files("tracker_ros"))) / "graphs" / weights


def _embedded_facts(stem: str) -> dict[str, Any]:
    """Return what the card beside an embedded weights file says; empty if there is no card."""
    path = embedded_file(f"{stem}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@lru_cache(maxsize=1)
def model_cards() -> dict[str, ModelCard]:
    """Return the cards of all models by name, sorted."""
    return {card.name: card for card in sorted(_cards(), key=lambda card: card.name)}


def _card(
    family: str, name: str, summary: str, size: int, embedded: str | None, **fields: Any
) -> ModelCard:
    """Return the card of one model.

    `size` is the side of the search crop, and of the template crop unless `fields` names another.
    `embedded` is the stem of the embedded weights file, None for the authors' weights; the card
    beside embedded weights takes precedence over `fields`.
    """
    method = FAMILIES[family]
    if embedded:
        facts = _embedded_facts(embedded)
        fields["weights"] = f"{embedded}.safetensors"
        fields["sha256"], fields["parameters"] = facts.get("sha256"), facts.get("parameters")
        fields["accuracy"] = facts.get("accuracy", {}).get(name, {})
        fitted = facts.get("calibration", {}).get(name)
        fields["calibration"] = None if fitted is None else Calibration.from_card(fitted)
    else:
        fields["checkpoint"] = method.checkpoint
    return ModelCard(
        name=name,
        family=family,
        summary=summary,
        template_size=fields.pop("template_size", size),
        search_size=size,
        paper=method.paper,
        code=method.code,
        licence="Apache-2.0" if embedded else method.licence,
        **fields,
    )


_COMPACT = "compact member with convolutional stem, trained here; weights are embedded"
_ONE_STREAM: dict[str, tuple[str, int | None]] = {
    "grm_tiny": (_COMPACT, None),
    "grm_vitb_256": ("ViT-B/16 at 256 px with adaptive token division", 99_828_187),
    "grm_vitl_320": ("ViT-L/16 at 320 px with adaptive token division", 331_826_163),
    "ostrack_tiny": (_COMPACT, None),
    "ostrack_vitb_256": ("ViT-B/16 at 256 px without candidate elimination", 92_518_533),
    "ostrack_vitb_256_ce": ("ViT-B/16 at 256 px with candidate elimination", 92_518_533),
    "ostrack_vitb_384_ce": ("ViT-B/16 at 384 px with candidate elimination", 92_825_733),
}
"""Summary, and number of parameters where no card of embedded weights tells it."""


_TRDIMP_METHODS = {
    "trdimp": "filter learned online, transformer memory",
    "trsiam": "pooled filter that stays, transformer memory",
}
_TRDIMP_NETWORKS = {
    "tiny": "compact member, trained here; weights are embedded",
    "resnet50": "ResNet-50",
    "resnet50_lasot": "ResNet-50; the authors' parameters for LaSOT: a memory that is never "
    "extended",
    "resnet50_vot": "ResNet-50; the authors' parameters for VOT: 224 px, a narrow search area, "
    "never not found",
}


_MAST_SUMMARIES = {
    "mast_resnet18": "masks by self-supervised matching; ResNet-18",
    "mast_tiny": "masks by self-supervised matching; compact, trained here, weights embedded",
}


def _cards() -> Iterator[ModelCard]:
    """Yield the card of each model."""
    for family, configs in (("ostrack", OSTRACK_CONFIGS), ("grm", GRM_CONFIGS)):
        for name, config in configs.items():
            network = name.removesuffix("_got10k")
            trained_on = ", trained on GOT-10k only" if network != name else ""
            summary, parameters = _ONE_STREAM[network]
            embedded = name if config.stem == "conv" else None
            facts = {"template_size": config.template_size, "parameters": parameters}
            yield _card(family, name, summary + trained_on, config.search_size, embedded, **facts)
    for name, (_, tracking) in TRDIMP_MODELS.items():
        method, _, network = name.partition("_")
        summary = f"{_TRDIMP_METHODS[method]}; {_TRDIMP_NETWORKS[network]}"
        embedded = TINY_WEIGHTS if network == "tiny" else None
        size = tracking.image_sample_size
        yield _card("trdimp", name, summary, size, embedded, parameters=43_753_943)
    for name, (_, side) in MAST_MODELS.items():
        # The network sees the whole image, with its shorter side reduced to this, in CIE Lab.
        embedded = None if name == "mast_resnet18" else name
        levels = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        summary = _MAST_SUMMARIES[name]
        yield _card("mast", name, summary, side, embedded, parameters=5_291_648, **levels)
    for name, two_stream in TWO_STREAM_CONFIGS.items():
        summary = "two templates and a search crop on a pretrained MobileNetV2"
        size = two_stream.search_size
        yield _card("two_stream", name, summary, size, None, parameters=1_107_653)
