# SPDX-License-Identifier: Apache-2.0
"""Cards of the OSTrack models; imports no torch."""

from __future__ import annotations

from tracker_ros.model_cards import ModelCard, embedded_facts
from tracker_ros.models.one_stream.config import OSTRACK_CONFIGS

PAPER = "https://arxiv.org/abs/2203.11991"
CODE = "https://github.com/botaoye/OSTrack"
LICENCE = (
    "code MIT; the authors' weights start from MAE (CC BY-NC 4.0) and were trained on data sets "
    "with terms of their own"
)
SUMMARIES = {
    "ostrack_tiny": "compact member with convolutional stem, trained here; weights are embedded",
    "ostrack_vitb_256": "ViT-B/16 at 256 px without candidate elimination",
    "ostrack_vitb_256_ce": "ViT-B/16 at 256 px with candidate elimination",
    "ostrack_vitb_384_ce": "ViT-B/16 at 384 px with candidate elimination",
}
PARAMETERS = {256: 92_518_533, 384: 92_825_733}


def cards() -> list[ModelCard]:
    """One card per model."""
    return [_card(name) for name in OSTRACK_CONFIGS]


def _card(name: str) -> ModelCard:
    config = OSTRACK_CONFIGS[name]
    embedded = config.stem == "conv"
    facts = embedded_facts(name) if embedded else {}
    official = name.removesuffix("_got10k")
    trained_on = ", trained on GOT-10k only" if official != name else ""
    return ModelCard(
        name=name,
        family="ostrack",
        summary=SUMMARIES[official] + trained_on,
        template_size=config.template_size,
        search_size=config.search_size,
        paper=PAPER,
        code=CODE,
        licence="Apache-2.0" if embedded else LICENCE,
        parameters=facts.get("parameters") if embedded else PARAMETERS[config.search_size],
        weights=f"{name}.safetensors" if embedded else None,
        sha256=facts.get("sha256"),
        checkpoint=None if embedded else "OSTrack_ep0300.pth.tar",
        accuracy=facts.get("accuracy", {}).get(name, {}),
    )
