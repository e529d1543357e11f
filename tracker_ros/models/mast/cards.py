# SPDX-License-Identifier: Apache-2.0
"""Cards of the MAST models; imports no torch."""

from __future__ import annotations

from tracker_ros.model_cards import ModelCard, embedded_facts
from tracker_ros.models.mast.config import MAST_MODELS

PAPER = "https://arxiv.org/abs/2002.07793"
CODE = "https://github.com/zlai0/MAST"
LICENCE = "the authors state none, neither for their code nor for their weights"
SUMMARIES = {
    "mast_resnet18": "masks by self-supervised matching; ResNet-18",
    "mast_tiny": "masks by self-supervised matching; compact, trained here, weights embedded",
}
PARAMETERS = {"mast_resnet18": 5_291_648}


def cards() -> list[ModelCard]:
    """One card per model; the compact one is listed where its weights are."""
    return [_card(name) for name in MAST_MODELS if name in PARAMETERS or embedded_facts(name)]


def _card(name: str) -> ModelCard:
    _, working_size = MAST_MODELS[name]
    embedded = name not in PARAMETERS
    facts = embedded_facts(name) if embedded else {}
    return ModelCard(
        name=name,
        family="mast",
        summary=SUMMARIES[name],
        # The whole image, reduced to this by its shorter side.
        template_size=working_size,
        search_size=working_size,
        paper=PAPER,
        code=CODE,
        licence="Apache-2.0" if embedded else LICENCE,
        parameters=facts.get("parameters") if embedded else PARAMETERS[name],
        weights=f"{name}.safetensors" if embedded else None,
        sha256=facts.get("sha256"),
        checkpoint=None if embedded else "checkpoint.pt",
        mean=(0.0, 0.0, 0.0),  # colours are Lab, not normalised RGB
        std=(1.0, 1.0, 1.0),
        accuracy=facts.get("accuracy", {}).get(name, {}),
    )
