# SPDX-License-Identifier: Apache-2.0
"""Cards of the GRM models; imports no torch."""

from __future__ import annotations

from tracker_ros.model_cards import ModelCard, embedded_facts
from tracker_ros.models.one_stream.config import GRM_CONFIGS

PAPER = "https://arxiv.org/abs/2303.16580"
CODE = "https://github.com/Little-Podi/GRM"
LICENCE = (
    "code MIT; the authors' weights start from MAE (CC BY-NC 4.0) and were trained on data sets "
    "with terms of their own"
)
SUMMARIES = {
    "grm_tiny": "compact member with convolutional stem, trained here; weights are embedded",
    "grm_vitb_256": "ViT-B/16 at 256 px with adaptive token division",
    "grm_vitl_320": "ViT-L/16 at 320 px with adaptive token division",
}
PARAMETERS = {"grm_vitb_256": 99_828_187, "grm_vitl_320": 331_826_163}


def cards() -> list[ModelCard]:
    """One card per model; the compact one is listed where its weights are."""
    return [_card(name) for name in GRM_CONFIGS if name in PARAMETERS or embedded_facts(name)]


def _card(name: str) -> ModelCard:
    config = GRM_CONFIGS[name]
    embedded = name not in PARAMETERS
    facts = embedded_facts(name) if embedded else {}
    return ModelCard(
        name=name,
        family="grm",
        summary=SUMMARIES[name],
        template_size=config.template_size,
        search_size=config.search_size,
        paper=PAPER,
        code=CODE,
        licence="Apache-2.0" if embedded else LICENCE,
        parameters=facts.get("parameters") if embedded else PARAMETERS[name],
        weights=f"{name}.safetensors" if embedded else None,
        sha256=facts.get("sha256"),
        checkpoint=None if embedded else "GRM_ep0300.pth.tar",
        accuracy=facts.get("accuracy", {}).get(name, {}),
    )
