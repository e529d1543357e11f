# SPDX-License-Identifier: Apache-2.0
"""Make the documents' tables of models from the model cards."""

from __future__ import annotations

from tracker_ros import list_models, model_card
from tracker_ros.model_cards import ModelCard


def model_table() -> str:
    """Return a table with a row for each model."""
    lines = [
        "| Name | What it is | Template / search, px | Parameters | Weights |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for card in map(model_card, list_models()):
        crops = f"{card.template_size} / {card.search_size}"
        weights = "official, by `weights=`" if card.checkpoint else "by its recipe"
        weights = "embedded" if card.weights else weights
        lines.append(
            f"| `{card.name}` | {card.summary} | {crops} | {_millions([card])} | {weights} |"
        )
    return "\n".join(lines)


def family_table() -> str:
    """Return a table with a row for the models that share family, origin and licence."""
    rows: dict[tuple[str, bool], list[ModelCard]] = {}
    for card in map(model_card, list_models()):
        rows.setdefault((card.family, card.weights is None), []).append(card)
    lines = [
        "| Models | Parameters | Weights | Licence of the weights |",
        "| --- | ---: | --- | --- |",
    ]
    for (_, official), cards in sorted(rows.items(), key=lambda entry: entry[0][1]):
        names = ", ".join(f"`{card.name}`" for card in cards)
        origin = f"[official]({cards[0].code})" if cards[0].checkpoint else "by its recipe"
        origin = origin if official else "embedded"
        lines.append(f"| {names} | {_millions(cards)} | {origin} | {cards[0].licence} |")
    return "\n".join(lines)


def _millions(cards: list[ModelCard]) -> str:
    """Return the number of parameters, or the range of several models, in millions."""
    numbers = sorted({f"{(card.parameters or 0) / 1e6:.1f}" for card in cards}, key=float)
    return f"{' to '.join(dict.fromkeys((numbers[0], numbers[-1])))} M"
