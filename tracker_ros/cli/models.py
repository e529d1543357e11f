# SPDX-License-Identifier: Apache-2.0
"""Commands about models: list them, convert an official checkpoint, train one by a recipe."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from tracker_ros.cli.options import Command, add_device_option, add_json_option, print_json


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="names to list, with the wildcards of the shell, as 'grm*' (default: all)",
    )
    parser.add_argument(
        "--options",
        action="store_true",
        help="list what --option can change of these models, each with the value it has without",
    )
    add_json_option(parser)


def _list(args: argparse.Namespace) -> int:
    """Print the model cards that match, as a table or as JSON."""
    from tracker_ros.model_cards import similar_names
    from tracker_ros.registry import list_models, model_card, model_options

    names = list_models(args.pattern)
    if not names:
        raise ValueError(
            f"no model matches {args.pattern!r}; {similar_names(args.pattern, list_models())}"
        )
    if args.options:
        options = {name: model_options(name) for name in names}
        if args.json:
            print_json(options)
            return 0
        for name, values in options.items():
            print(f"{name}:")
            for option, value in values.items():
                print(f"  {option}={value}")
        return 0
    cards = {name: asdict(model_card(name)) for name in names}
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


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="IN.pth.tar", help="the file to read")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="OUT.safetensors",
        help="the file to write (default: beside the checkpoint)",
    )
    parser.add_argument("--half", action="store_true", help="store floating-point values as fp16")
    add_json_option(parser)


def _convert(args: argparse.Namespace) -> int:
    stem = args.checkpoint.name
    for ending in (".tar", ".pth", ".pt"):
        stem = stem.removesuffix(ending)
    out = args.out or args.checkpoint.with_name(f"{stem}.safetensors")
    if out.suffix != ".safetensors":
        raise ValueError(f"output is {str(out)!r}; give a name ending in .safetensors")
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {str(args.checkpoint)!r}; check the path")
    from tracker_ros.checkpoints import convert_checkpoint
    from tracker_ros.registry import matching_models, models_to_train_from

    sha256, state = convert_checkpoint(args.checkpoint, out, half=args.half)
    values = sum(tensor.numel() for tensor in state.values())
    models, trained = list(matching_models(state)), list(models_to_train_from(state))
    facts = {
        "path": str(out),
        "sha256": sha256,
        "tensors": len(state),
        "values": values,
        "models": models,
        "start_of": trained,
    }
    if args.json:
        print_json(facts)
        return 0
    print(f"wrote {out}: {len(state)} tensors, {values / 1e6:.1f} M values")
    if trained:
        print(f"a pretrained backbone: start_from in a recipe of {', '.join(trained)}")
    else:
        print(f"fits: {', '.join(models) or 'none of the known models'}")
    print(f"sha256: {sha256}")
    return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="what to train, and how")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run")
    add_device_option(parser)


def _train(args: argparse.Namespace) -> int:
    if not args.recipe.is_file():
        raise FileNotFoundError(f"no recipe at {str(args.recipe)!r}; see the folder recipes/")
    from tracker_ros.training.trainer import train_command

    return int(train_command(args) or 0)


MODELS = Command(
    "list the models and their licences",
    "List the models: what each one is, its licence, and whether its weights are embedded.",
    _list_arguments,
    _list,
)
CONVERT_CHECKPOINT = Command(
    "turn an official .pth(.tar) checkpoint into safetensors, safely",
    "Turn an official checkpoint into safetensors without executing the code in its pickle.",
    _convert_arguments,
    _convert,
)
TRAIN = Command(
    "train a model by a recipe (resumable)",
    "Train a model by a recipe; a run that was stopped continues where it was.",
    _train_arguments,
    _train,
)
