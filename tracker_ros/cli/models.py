# SPDX-License-Identifier: Apache-2.0
"""List the models: what each is, its licence, and whether its weights are embedded."""

from __future__ import annotations

import argparse
from dataclasses import asdict, is_dataclass
from typing import Any

from tracker_ros.cli.options import add_json_option, print_json

SUMMARY = "list the models and their licences"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print every model card, as a table or as JSON."""
    from tracker_ros.registry import model_card, model_names

    cards = {name: _as_data(model_card(name)) for name in model_names()}
    if args.json:
        print_json(cards)
        return 0
    width = max(len(name) for name in cards)
    for name, card in cards.items():
        weights = "embedded" if card["weights"] else "needs --weights"
        size = f"{card['parameters'] / 1e6:.1f} M" if card["parameters"] else ""
        print(f"{name:<{width}}  {weights:<15}  {size:>6}  {card['summary']}")
    print("\nLicences of the weights:")
    for licence in dict.fromkeys(card["licence"] for card in cards.values()):
        names = [name for name, card in cards.items() if card["licence"] == licence]
        print(f"  {', '.join(names)}:\n    {licence}")
    return 0


def _as_data(card: Any) -> dict[str, Any]:
    """A model card as plain data that JSON can hold."""
    fields = asdict(card) if is_dataclass(card) and not isinstance(card, type) else vars(card)
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
