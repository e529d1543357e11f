# SPDX-License-Identifier: Apache-2.0
"""Cards of the TrDiMP and TrSiam models; imports no torch."""

from __future__ import annotations

from tracker_ros.model_cards import ModelCard, embedded_facts
from tracker_ros.models.trdimp.config import TINY_WEIGHTS, TRDIMP_MODELS

PAPER = "https://arxiv.org/abs/2103.11681"
CODE = "https://github.com/594422814/TransformerTrack"
LICENCE = (
    "code MIT, on top of pytracking (GPL-3.0); the authors' weights start from an ImageNet "
    "ResNet-50 and were trained on data sets with terms of their own"
)
METHODS = {
    "trdimp": "filter learned online, transformer memory",
    "trsiam": "pooled filter that stays, transformer memory",
}
VARIANTS = {
    "": "",
    "lasot": "; the authors' parameters for LaSOT: a memory that is never extended",
    "vot": "; the authors' parameters for VOT: 224 px, a narrow search area, never not found",
}
PARAMETERS = 43_753_943


def cards() -> list[ModelCard]:
    """One card per model."""
    return [_card(name) for name in TRDIMP_MODELS]


def _card(name: str) -> ModelCard:
    config, parameters = TRDIMP_MODELS[name]
    method, network, *variant = name.split("_")
    embedded = network == "tiny"
    facts = embedded_facts(TINY_WEIGHTS) if embedded else {}
    made = (
        "compact member, trained here; weights are embedded"
        if embedded
        else f"ResNet-50{VARIANTS[''.join(variant)]}"
    )
    return ModelCard(
        name=name,
        family="trdimp",
        summary=f"{METHODS[method]}; {made}",
        template_size=parameters.image_sample_size,
        search_size=parameters.image_sample_size,
        paper=PAPER,
        code=CODE,
        licence="Apache-2.0" if embedded else LICENCE,
        parameters=facts.get("parameters") if embedded else PARAMETERS,
        weights=f"{TINY_WEIGHTS}.safetensors" if embedded else None,
        sha256=facts.get("sha256"),
        checkpoint=None if embedded else "trdimp_net.pth.tar",
        accuracy=facts.get("accuracy", {}).get(name, {}),
    )
