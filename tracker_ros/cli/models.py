# SPDX-License-Identifier: Apache-2.0
"""List the models: what each is, its licence, and whether its weights are embedded."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tracker_ros.cli.options import add_json_option, print_json

SUMMARY = "list the models and their licences"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print every model card, as a table or as JSON."""
    from tracker_ros.registry import list_models, model_card

    cards = {name: asdict(model_card(name)) for name in list_models()}
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
