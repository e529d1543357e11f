# SPDX-License-Identifier: Apache-2.0
"""The targets of `tracker-ros track`: boxes, objects of a mask, or a box drawn with the mouse."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from tracker_ros.geometry import Box
    from tracker_ros.io.video_source import VideoSource

_WINDOW = "Draw a box, then press Enter"


@dataclass(frozen=True)
class Targets:
    """What to follow in the first frame: boxes, and masks (H, W) bool with their labels."""

    boxes: tuple[Box, ...] = ()
    masks: tuple[np.ndarray, ...] = ()
    objects: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes) + len(self.masks)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add `--box`, `--mask` and what goes with them."""
    box = (
        "a target in the first frame: top-left corner and size in pixels; may be repeated. "
        "synthetic knows its own; without box and mask a window opens, where there is a display"
    )
    parser.add_argument(
        "--box", type=float, nargs=4, action="append", metavar=("X", "Y", "W", "H"), help=box
    )
    mask = (
        "instead of boxes, a picture of the targets' pixels in the first frame; each object of a "
        "label map or palette is followed"
    )
    parser.add_argument("--mask", type=Path, metavar="MASK.png", help=mask)
    parser.add_argument(
        "--object",
        action="append",
        default=[],
        metavar="N",
        help="follow only the object with this label (or #rrggbb) in the mask; may be repeated",
    )
    parser.add_argument(
        "--mask-alpha", action="store_true", help="take the alpha channel of the picture as mask"
    )


def check_target_options(args: argparse.Namespace) -> None:
    """Raise ValueError if options exclude each other; nothing is read yet."""
    if args.box and args.mask:
        raise ValueError("--box and --mask are given; leave one out")
    if (args.object or args.mask_alpha) and not args.mask:
        raise ValueError("--object and --mask-alpha are about a mask; give one with --mask")


def targets_of_mask(args: argparse.Namespace) -> Targets:
    """Read the objects that were asked for from `--mask`; no targets without the option."""
    if not args.mask:
        return Targets()
    from tracker_ros.io.mask_files import read_label_map
    from tracker_ros.masks import object_numbers, one_object

    labels = read_label_map(args.mask, alpha=args.mask_alpha)
    present = object_numbers(labels)
    if not present:
        raise ValueError(f"mask {str(args.mask)!r} has no object; paint the target white on black")
    if (labels > 0).all() and len(present) == 1:
        hint = "" if args.mask_alpha else "; if its alpha channel is the mask, add --mask-alpha"
        raise ValueError(f"mask {str(args.mask)!r} covers the whole picture{hint}")
    wanted = [_object_number(text) for text in args.object] or present
    return Targets(
        masks=tuple(one_object(labels, number) for number in wanted), objects=tuple(wanted)
    )


def targets_of_boxes(args: argparse.Namespace, video: VideoSource) -> Targets:
    """Return the boxes of `--box`, the source's own one, or one drawn with the mouse."""
    from tracker_ros.geometry import parse_box

    if args.box:
        return Targets(boxes=tuple(parse_box(box) for box in args.box))
    if video.first_box is not None:
        return Targets(boxes=(video.first_box,))
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return Targets(boxes=(draw_box(video.first_image()),))
    raise ValueError("--box is missing; give the target in the first frame: --box X Y W H")


def draw_box(image: np.ndarray) -> Box:
    """Let the user draw a box on an image, RGB uint8 (H, W, 3), in a window.

    Raises ValueError if nothing was drawn or this OpenCV has no windows.
    """
    import cv2

    try:
        x, y, w, h = cv2.selectROI(_WINDOW, image[..., ::-1].copy(), showCrosshair=False)
        cv2.destroyWindow(_WINDOW)
    except cv2.error as error:
        raise ValueError(
            "--box is missing, and this OpenCV opens no window to draw one (install "
            "opencv-python or python3-opencv in place of the headless one); "
            "give the target in the first frame: --box X Y W H"
        ) from error
    if w <= 0 or h <= 0:
        raise ValueError("no box was drawn; drag from one corner to the other, then press Enter")
    return float(x), float(y), float(w), float(h)


def _object_number(text: str) -> int:
    """Return the label that `--object` names: a number, or a colour as #rrggbb."""
    try:
        return int(text[1:], 16) if text.startswith("#") else int(text)
    except ValueError as error:
        raise ValueError(f"--object is {text!r}; give a label such as 2, or #rrggbb") from error
