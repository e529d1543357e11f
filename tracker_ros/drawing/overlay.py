# SPDX-License-Identifier: Apache-2.0
"""Draw targets, their states, response maps, token masks and a side panel on RGB images.

Every function takes and returns RGB ``uint8`` arrays of shape (H, W, 3) and leaves its inputs
unchanged. Sizes follow the image, so that a 320×240 and a 1080p picture look alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tracker_ros.crops import in_order
from tracker_ros.drawing.text import INK, PAPER, RGB, DrawingSizes, blend_text, mix, text_width
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import Box
from tracker_ros.tracker import TrackResult

STATE_COLOURS: dict[TargetState, RGB] = {
    TargetState.IDLE: (170, 178, 189),
    TargetState.LOADING: (86, 156, 255),
    TargetState.TRACKING: (64, 222, 128),
    TargetState.UNCERTAIN: (255, 190, 60),
    TargetState.LOST: (255, 84, 84),
}
"""The colour of a single target's box and tag, and of the status strip."""

TARGET_COLOURS: tuple[RGB, ...] = (
    (64, 222, 128), (86, 156, 255), (255, 190, 60), (226, 110, 255),
    (255, 120, 100), (60, 214, 214), (200, 210, 90), (255, 150, 200),
)  # fmt: skip
"""The colours of several targets, chosen by their ids."""

COMPARED: RGB = (70, 200, 255)
"""The tint of tokens that were compared with the template."""

_BAR_GROUND: RGB = (84, 90, 100)
_EMPTY: RGB = (34, 38, 46)


@dataclass(frozen=True)
class DrawnTarget:
    """A target to draw: the tracker's result or None, its state, and id and label for its tag."""

    result: TrackResult | None
    target_id: str = ""
    label: str = ""
    state: TargetState = TargetState.TRACKING


def draw_targets(
    image_rgb: np.ndarray,
    targets: Sequence[DrawnTarget],
    *,
    rate_hz: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw boxes, ids, labels, scores, states and rate on a copy of an image, (H, W, 3) uint8 RGB.

    A lost target's box, at its last known place, is dashed. A mask, where a result has one, tints
    the target. A single target has the colour of its state; several have a colour each, and their
    tags name every state except TRACKING. Where nothing is followed, give one target in state
    IDLE.

    The result is `scale` times as large; below 1 the image is shrunk first. Raises ValueError if
    the image is not (H, W, 3) uint8 or the scale is not positive.
    """
    canvas = _scaled_copy(image_rgb, scale)
    height, width = canvas.shape[:2]
    sizes = DrawingSizes.for_image(height, width)
    several = len(targets) > 1
    for target in reversed(targets):  # the first one on top
        result, state = target.result, target.state
        if result is None or state is TargetState.IDLE:
            continue
        colour = target_colour(state, target.target_id, several)
        if result.mask is not None:
            _tint(canvas, result.mask, colour)
        corners = _corners(result.box, width / image_rgb.shape[1], height / image_rgb.shape[0])
        if corners is not None:
            _draw_box(canvas, corners, colour, sizes, dashed=state is TargetState.LOST)
            name = f"#{target.target_id}" if target.target_id else ""
            doubt = state.name.lower() if several and state is not TargetState.TRACKING else ""
            parts = (name, target.label, f"{result.score:.2f}", doubt)
            _draw_tag(canvas, " ".join(filter(None, parts)), corners, colour, sizes)
    _draw_status(canvas, targets, rate_hz, sizes)
    return canvas


def target_colour(state: TargetState, target_id: str, several: bool) -> RGB:
    """Return the colour of a target: of its state, or its own one of several."""
    if not several:
        return STATE_COLOURS[state]
    number = int(target_id) - 1 if target_id.isdigit() else 0
    return TARGET_COLOURS[number % len(TARGET_COLOURS)]


def colour_map_score(score_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turn a response map into a picture: dark where nothing responds, bright at the peak.

    The map is (h, w) in [0, 1]; values outside are clipped, those that are not finite count as 0.
    Returns RGB uint8 of `size`, (width, height). Raises ValueError if the map is not
    two-dimensional or is empty, or the size is not positive.
    """
    values: np.ndarray = np.asarray(score_map, dtype=np.float32)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"score_map has shape {values.shape}; pass one two-dimensional map, (h, w)"
        )
    width, height = (int(side) for side in size)
    if width < 1 or height < 1:
        raise ValueError(f"size is {size}; width and height must be at least 1 pixel")
    values = np.where(np.isfinite(values), values, 0.0).astype(np.float32)
    shrinking = width < values.shape[1] or height < values.shape[0]
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    values = cv2.resize(np.clip(values, 0.0, 1.0), (width, height), interpolation=interpolation)
    levels = np.rint(values * 255.0).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def draw_token_mask(picture_rgb: np.ndarray, token_mask: np.ndarray, region: Box) -> np.ndarray:
    """Tint the tokens of a search region that were compared with the template, darken the rest.

    The mask, (layers, n, n) bool of a `TrackResult`, covers the xywh region of the picture, which
    is darker outside it. Tokens that only some of the layers compare are tinted in proportion.
    """
    height, width = picture_rgb.shape[:2]
    x, y, w, h = region
    cell_w, cell_h = w / token_mask.shape[2], h / token_mask.shape[1]
    placed = np.array([[cell_w, 0, x + cell_w / 2 - 0.5], [0, cell_h, y + cell_h / 2 - 0.5]])
    share: np.ndarray = token_mask.mean(axis=0, dtype=np.float32)
    share = cv2.warpAffine(
        share, placed, (width, height), flags=cv2.INTER_NEAREST, borderValue=-1.0
    )[..., None]
    picture = picture_rgb.astype(np.float32)
    tinted = 0.65 * picture + 0.35 * np.asarray(COMPARED, np.float32)
    inside = share * tinted + (1.0 - share) * 0.5 * picture
    return np.rint(np.where(share < 0.0, 0.3 * picture, inside)).astype(np.uint8)


def place_beside(
    frame_rgb: np.ndarray,
    score_rgb: np.ndarray | None,
    target_rgb: np.ndarray | None = None,
) -> np.ndarray:
    """Put a dark panel to the right of a frame: the response map, below it the target close up.

    All pictures are (H, W, 3) uint8; the panel is about a third of the frame's width. Without a
    picture its place stays empty, so that all frames of a video have one size.
    """
    height, width = frame_rgb.shape[:2]
    sizes = DrawingSizes.for_image(height, width)
    panel_width = max(48, min(width // 3, height // 2))
    panel = np.empty((height, panel_width, 3), np.uint8)
    panel[:] = INK
    left, top = sizes.margin, sizes.margin
    title_height = sizes.text + sizes.margin
    side = (height - top) // 2 - title_height - sizes.margin
    side = max(1, min(panel_width - 2 * left, side))
    for title, picture in (("response", score_rgb), ("target", target_rgb)):
        blend_text(panel, title, (left, top), sizes.text, PAPER)
        top += title_height
        place = panel[top : top + side, left : left + side]
        if picture is None:
            place[:] = _EMPTY
        else:
            size = (place.shape[1], place.shape[0])
            place[:] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        top += side + sizes.margin
    return np.concatenate([frame_rgb, panel], axis=1)


def close_up(
    image_rgb: np.ndarray,
    box: Box,
    side: int = 256,
    context: float = 1.3,
) -> np.ndarray | None:
    """Cut out the square around a box x, y, w, h: `context` times the box's longer side.

    Returns (side, side, 3) uint8, dark where the square leaves the image; None for a box that is
    not finite or empty.
    """
    x, y, w, h = box
    if not np.isfinite(box).all() or w <= 0 or h <= 0:
        return None
    scale = side / (context * max(w, h))
    shift_x, shift_y = side / 2 - scale * (x + w / 2), side / 2 - scale * (y + h / 2)
    to_output = np.array([[scale, 0.0, shift_x], [0.0, scale, shift_y]])
    return cv2.warpAffine(
        in_order(image_rgb), to_output, (side, side), flags=cv2.INTER_LINEAR, borderValue=_EMPTY
    )


def _scaled_copy(image_rgb: np.ndarray, scale: float) -> np.ndarray:
    """Check an image and return a copy of it, resized unless the scale is 1."""
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
        raise ValueError(
            f"image has shape {image_rgb.shape} and type {image_rgb.dtype}; "
            "pass RGB uint8 of shape (H, W, 3)"
        )
    if not scale > 0.0:
        raise ValueError(f"scale is {scale}; it must be above 0, 1 keeps the image's size")
    ordered = in_order(image_rgb)
    if scale == 1.0:
        return np.array(ordered, order="C", copy=ordered is image_rgb)
    height, width = image_rgb.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return cv2.resize(ordered, size, interpolation=interpolation)


def _corners(box: Box, scale_x: float, scale_y: float) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of a box in drawn pixels; None for one not drawable."""
    x, y, w, h = box
    if not np.isfinite(box).all() or w <= 0 or h <= 0:
        return None
    edges = np.clip(
        [x * scale_x, y * scale_y, (x + w) * scale_x - 1.0, (y + h) * scale_y - 1.0], -4e3, 4e4
    )
    left, top, right, bottom = (round(float(edge)) for edge in edges)
    return left, top, max(left, right), max(top, bottom)


def _tint(canvas: np.ndarray, mask: np.ndarray, colour: RGB) -> None:
    """Mix a colour into the masked pixels in place, about one third colour."""
    height, width = canvas.shape[:2]
    if mask.shape != (height, width):
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    inside = mask.astype(bool)
    canvas[inside] = mix(canvas[inside], 0.66, colour, 0.34)


def _draw_box(
    canvas: np.ndarray,
    corners: tuple[int, int, int, int],
    colour: RGB,
    sizes: DrawingSizes,
    dashed: bool,
) -> None:
    """Draw the box with strong corners, over a dark edge that keeps it visible on any ground."""
    left, top, right, bottom = corners
    outline = _outline(corners, dash=4 * sizes.text // 5 if dashed else 0)
    cv2.polylines(canvas, outline, False, INK, sizes.line + 2, cv2.LINE_AA)
    cv2.polylines(canvas, outline, False, colour, sizes.line, cv2.LINE_AA)
    if not dashed:
        arm_x = max(2, min((right - left) // 4, 2 * sizes.text))
        arm_y = max(2, min((bottom - top) // 4, 2 * sizes.text))
        angles = [
            np.array([(x + step_x, y), (x, y), (x, y + step_y)], np.int32)
            for x, step_x in ((left, arm_x), (right, -arm_x))
            for y, step_y in ((top, arm_y), (bottom, -arm_y))
        ]
        cv2.polylines(canvas, angles, False, colour, sizes.line + 2, cv2.LINE_AA)


def _outline(corners: tuple[int, int, int, int], dash: int) -> list[np.ndarray]:
    """Return a box's outline as polylines: one around it, or dashes of about `dash` pixels."""
    left, top, right, bottom = corners
    points = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    if not dash:
        return [points.astype(np.int32)]
    dashes: list[np.ndarray] = []
    for start, end in zip(points[:-1], points[1:], strict=True):
        count = max(1, min(400, round(np.abs(end - start).sum() / (2 * dash))))
        shares = (np.arange(count)[:, None] + (0.0, 0.55)) / count
        dashes += list(np.rint(start + (end - start) * shares[..., None]).astype(np.int32))
    return dashes


def _draw_tag(
    canvas: np.ndarray,
    text: str,
    corners: tuple[int, int, int, int],
    colour: RGB,
    sizes: DrawingSizes,
) -> None:
    """Draw a filled tag with dark text above the box, or where it fits inside the image."""
    height, width = canvas.shape[:2]
    left, top, _, bottom = corners
    pad = sizes.pad
    tag_width = text_width(text, sizes.text) + 2 * pad
    ceiling = sizes.strip + sizes.margin  # the status strip owns the image's first rows
    y = top - sizes.strip - sizes.line
    if y < ceiling:
        y = bottom + sizes.line + 1
    if y + sizes.strip > height:
        y = max(ceiling, min(top + sizes.line + 1, height - sizes.strip))
    x = max(0, min(left - sizes.line // 2, width - tag_width))
    cv2.rectangle(canvas, (x, y), (x + tag_width - 1, y + sizes.strip - 1), colour, cv2.FILLED)
    blend_text(canvas, text, (x + pad, y + pad), sizes.text, INK)


def _draw_status(
    canvas: np.ndarray,
    targets: Sequence[DrawnTarget],
    rate_hz: float | None,
    sizes: DrawingSizes,
) -> None:
    """Draw the strip at the top left: state, a bar for the score, the rate.

    For several targets it counts the states and has no bar.
    """
    state, result = targets[0].state, targets[0].result
    counts = Counter(target.state.name for target in targets)
    text = state.name
    if len(targets) > 1:
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
    rate = "" if rate_hz is None else f"{rate_hz:.1f} Hz"
    has_bar = len(targets) == 1 and result is not None and state is not TargetState.IDLE
    gap, bar_width = max(3, sizes.text // 2), 3 * sizes.text
    widths = [sizes.text // 2, text_width(text, sizes.text)]
    widths += [bar_width] if has_bar else []
    widths += [text_width(rate, sizes.text)] if rate else []
    strip = canvas[: sizes.strip, : sum(widths) + gap * (len(widths) + 1)]
    strip[:] = mix(strip, 0.28, INK, 0.72)

    x, middle = gap, sizes.strip // 2
    radius = max(2, sizes.text // 4)
    cv2.circle(canvas, (x + radius, middle), radius, STATE_COLOURS[state], cv2.FILLED, cv2.LINE_AA)
    x += widths[0] + gap
    blend_text(canvas, text, (x, sizes.pad), sizes.text, PAPER)
    x += widths[1] + gap
    if has_bar and result is not None:
        score = float(np.clip(result.score, 0.0, 1.0)) if np.isfinite(result.score) else 0.0
        half = max(1, sizes.text // 5)
        for share, colour in ((1.0, _BAR_GROUND), (score, STATE_COLOURS[state])):
            if share > 0.0:
                end = (x + round((bar_width - 1) * share), middle + half)
                cv2.rectangle(canvas, (x, middle - half), end, colour, cv2.FILLED)
        x += bar_width + gap
    blend_text(canvas, rate, (x, sizes.pad), sizes.text, PAPER)
