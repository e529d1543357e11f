# SPDX-License-Identifier: Apache-2.0
"""Turn an official checkpoint (.pth, .pth.tar) into safetensors without executing its pickle."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracker_ros.cli.options import add_json_option, print_json

SUMMARY = "turn an official .pth(.tar) checkpoint into safetensors, safely"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
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


def run(args: argparse.Namespace) -> int:
    """Convert one checkpoint."""
    out = args.out or args.checkpoint.with_name(_stem(args.checkpoint.name) + ".safetensors")
    if out.suffix != ".safetensors":
        raise ValueError(f"output is {str(out)!r}; give a name ending in .safetensors")
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {str(args.checkpoint)!r}; check the path")
    from tracker_ros.checkpoints import convert_checkpoint
    from tracker_ros.registry import matching_models

    sha256, state = convert_checkpoint(args.checkpoint, out, half=args.half)
    values = sum(tensor.numel() for tensor in state.values())
    models = matching_models(state)
    if args.json:
        print_json(
            {
                "path": str(out),
                "sha256": sha256,
                "tensors": len(state),
                "values": values,
                "models": list(models),
            }
        )
        return 0
    fits = ", ".join(models) or "none of the known models"
    print(f"wrote {out}: {len(state)} tensors, {values / 1e6:.1f} M values")
    print(f"fits: {fits}\nsha256: {sha256}")
    return 0


def _stem(name: str) -> str:
    """A checkpoint's name without .tar, .pth or .pt."""
    for ending in (".tar", ".pth", ".pt"):
        name = name.removesuffix(ending)
    return name
