# SPDX-License-Identifier: Apache-2.0
"""Drawing targets, their state and their response map on RGB images.

Everything here takes and returns RGB ``uint8`` arrays of shape (H, W, 3) and never writes into
its inputs. Sizes follow the image, so that a 320×240 and a 1080p picture look alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tracker_ros.drawing.text import INK, PAPER, RGB, DrawingSizes, blend_text, text_width
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
"""One colour per state, used for the box, the tag and the status strip."""

TARGET_COLOURS: tuple[RGB, ...] = (
    (64, 222, 128),
    (86, 156, 255),
    (255, 190, 60),
    (226, 110, 255),
    (255, 120, 100),
    (60, 214, 214),
    (200, 210, 90),
    (255, 150, 200),
)
"""Of several targets each has one, by its id."""

COMPARED: RGB = (70, 200, 255)
"""What may meet the template is drawn in this colour."""


@dataclass(frozen=True)
class DrawnTarget:
    """One target of a picture.

    Attributes:
        result: What its tracker said of this very image, or None when there is nothing to draw.
        target_id: Identifier shown in the tag, e.g. ``"3"``; empty for none.
        label: What the target is, e.g. ``"person"``; empty for none.
        state: Of the target.
    """

    result: TrackResult | None
    target_id: str = ""
    label: str = ""
    state: TargetState = TargetState.TRACKING


def draw_target(
    image_rgb: np.ndarray,
    result: TrackResult | None,
    *,
    target_id: str = "",
    label: str = "",
    state: TargetState = TargetState.TRACKING,
    rate_hz: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw a single target on a copy of an image; see `DrawnTarget` and `draw_targets`."""
    target = DrawnTarget(result, target_id, label, TargetState(state))
    return draw_targets(image_rgb, [target], rate_hz=rate_hz, scale=scale)


def draw_targets(
    image_rgb: np.ndarray,
    targets: Sequence[DrawnTarget],
    *,
    rate_hz: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw boxes, ids, labels, scores, states and rate on a copy of an image.

    A box is dashed while its target is lost (the last place it was thought to be). A mask, where
    a result has one, tints the target. A single target has the colour of its state; several have
    a colour each, and their tags name every state but TRACKING.

    Args:
        image_rgb: (H, W, 3) uint8, RGB.
        targets: At least one; where nothing is followed, one that says so.
        rate_hz: Frames tracked per second, or None to leave it out.
        scale: Size of the drawing relative to the image; below 1 the image is shrunk first.

    Returns:
        A new RGB uint8 image of shape (round(H·scale), round(W·scale), 3).

    Raises:
        ValueError: If the image is not (H, W, 3) uint8 or the scale is not positive.
    """
    canvas = _scaled_copy(image_rgb, scale)
    height, width = canvas.shape[:2]
    metrics = DrawingSizes.for_image(height, width)
    several = len(targets) > 1
    for target in reversed(targets):  # the first one on top
        result, state = target.result, target.state
        if result is None or state is TargetState.IDLE:
            continue
        colour = _colour_of(target.target_id) if several else STATE_COLOURS[state]
        if result.mask is not None:
            _tint(canvas, result.mask, colour)
        corners = _corners(result.box, width / image_rgb.shape[1], height / image_rgb.shape[0])
        if corners is not None:
            _draw_box(canvas, corners, colour, metrics, dashed=state is TargetState.LOST)
            doubt = state.name.lower() if several and state is not TargetState.TRACKING else ""
            number = f"#{target.target_id}" if target.target_id else ""
            parts = (number, target.label, f"{result.score:.2f}", doubt)
            _draw_tag(canvas, " ".join(filter(None, parts)), corners, colour, metrics)
    _draw_status(canvas, targets, rate_hz, metrics)
    return canvas


def colour_map_score(score_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turn a response map into a picture: dark where nothing answers, bright at the peak.

    Args:
        score_map: (h, w) float array, values in [0, 1]; values outside are clipped and
            non-finite ones count as 0.
        size: Width and height of the picture in pixels.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        ValueError: If the map is not two-dimensional and non-empty, or the size not positive.
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
    """Tint the tokens of a search region that were compared with the template.

    The rest of the region is drawn dark, and what lies outside of it darker.

    Args:
        picture_rgb: (H, W, 3) uint8.
        token_mask: (layers, n, n) bool of a `TrackResult`; tokens that only some of the layers
            compare are tinted in proportion.
        region: `(x, y, w, h)` that the mask covers, pixels of the picture.

    Returns:
        A new RGB uint8 image of the picture's size.
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


def _colour_of(target_id: str) -> RGB:
    number = int(target_id) - 1 if target_id.isdigit() else 0
    return TARGET_COLOURS[number % len(TARGET_COLOURS)]


def _scaled_copy(image_rgb: np.ndarray, scale: float) -> np.ndarray:
    """Check an image and copy it, resized when the scale asks for it."""
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
        raise ValueError(
            f"image has shape {image_rgb.shape} and type {image_rgb.dtype}; "
            "pass RGB uint8 of shape (H, W, 3)"
        )
    if not scale > 0.0:
        raise ValueError(f"scale is {scale}; it must be above 0, 1 keeps the image's size")
    if scale == 1.0:
        return np.array(image_rgb, order="C", copy=True)
    height, width = image_rgb.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return cv2.resize(image_rgb, size, interpolation=interpolation)


def _corners(box: Box, scale_x: float, scale_y: float) -> tuple[int, int, int, int] | None:
    """Corners (left, top, right, bottom) of a box in drawn pixels, None for one not drawable."""
    x, y, w, h = box
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        return None
    edges = np.clip(
        [x * scale_x, y * scale_y, (x + w) * scale_x - 1.0, (y + h) * scale_y - 1.0], -4e3, 4e4
    )
    left, top, right, bottom = (round(float(edge)) for edge in edges)
    return left, top, max(left, right), max(top, bottom)


def _tint(canvas: np.ndarray, mask: np.ndarray, colour: RGB) -> None:
    """Mix a colour into the masked pixels, one third colour, in place."""
    height, width = canvas.shape[:2]
    if mask.shape != (height, width):
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    inside = mask.astype(bool)
    mixed = canvas[inside].astype(np.float32) * 0.66 + np.float32(0.34) * np.asarray(
        colour, np.float32
    )
    canvas[inside] = np.rint(mixed).astype(np.uint8)


def _draw_box(
    canvas: np.ndarray,
    corners: tuple[int, int, int, int],
    colour: RGB,
    metrics: DrawingSizes,
    dashed: bool,
) -> None:
    """Draw the box with strong corners, over a dark edge that keeps it visible on any ground."""
    left, top, right, bottom = corners
    segments = _box_segments(left, top, right, bottom, dashed, dash=4 * metrics.text // 5)
    for ink, width in ((INK, metrics.line + 2), (colour, metrics.line)):
        for start, end in segments:
            cv2.line(canvas, start, end, ink, width, cv2.LINE_AA)
    if dashed:
        return
    arm_x = max(2, min((right - left) // 4, 2 * metrics.text))
    arm_y = max(2, min((bottom - top) // 4, 2 * metrics.text))
    for x, step_x in ((left, arm_x), (right, -arm_x)):
        for y, step_y in ((top, arm_y), (bottom, -arm_y)):
            cv2.line(canvas, (x, y), (x + step_x, y), colour, metrics.line + 2, cv2.LINE_AA)
            cv2.line(canvas, (x, y), (x, y + step_y), colour, metrics.line + 2, cv2.LINE_AA)


def _box_segments(
    left: int, top: int, right: int, bottom: int, dashed: bool, dash: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The box's outline as line segments: its four edges, or dashes along them."""
    points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    if not dashed:
        return edges
    segments = []
    for (x0, y0), (x1, y1) in edges:
        count = max(1, min(400, round((abs(x1 - x0) + abs(y1 - y0)) / (2 * dash))))
        for index in range(count):
            near, far = index / count, (index + 0.55) / count
            segments.append(
                (
                    (round(x0 + (x1 - x0) * near), round(y0 + (y1 - y0) * near)),
                    (round(x0 + (x1 - x0) * far), round(y0 + (y1 - y0) * far)),
                )
            )
    return segments


def _draw_tag(
    canvas: np.ndarray,
    text: str,
    corners: tuple[int, int, int, int],
    colour: RGB,
    metrics: DrawingSizes,
) -> None:
    """Draw a filled tag with dark text above the box, or where it fits inside the image."""
    height, width = canvas.shape[:2]
    left, top, _, bottom = corners
    pad = max(1, metrics.text // 6)
    tag_width = text_width(text, metrics.text) + 2 * pad
    tag_height = metrics.text + 2 * pad
    # The status strip owns the image's first rows.
    ceiling = metrics.text + 2 * pad + metrics.margin
    y = top - tag_height - metrics.line
    if y < ceiling:
        y = bottom + metrics.line + 1
    if y + tag_height > height:
        y = max(ceiling, min(top + metrics.line + 1, height - tag_height))
    x = max(0, min(left - metrics.line // 2, width - tag_width))
    cv2.rectangle(canvas, (x, y), (x + tag_width - 1, y + tag_height - 1), colour, cv2.FILLED)
    blend_text(canvas, text, (x + pad, y + pad), metrics.text, INK)


def _draw_status(
    canvas: np.ndarray,
    targets: Sequence[DrawnTarget],
    rate_hz: float | None,
    metrics: DrawingSizes,
) -> None:
    """Draw the strip at the top left: state, a bar for the score, the rate.

    Of several targets it names the states and how many are in each.
    """
    state, result = targets[0].state, targets[0].result
    text = state.name
    if len(targets) > 1:
        counts = Counter(target.state.name for target in targets)
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
    pad = max(1, metrics.text // 6)
    strip_height = metrics.text + 2 * pad
    rate = "" if rate_hz is None else f"{rate_hz:.1f} Hz"
    has_bar = len(targets) == 1 and result is not None and state is not TargetState.IDLE
    bar_width = 3 * metrics.text
    widths = [metrics.text // 2, text_width(text, metrics.text)]
    widths += [bar_width] if has_bar else []
    widths += [text_width(rate, metrics.text)] if rate else []
    gap = max(3, metrics.text // 2)
    strip_width = min(canvas.shape[1], sum(widths) + gap * (len(widths) - 1) + 2 * gap)
    strip = canvas[:strip_height, :strip_width]
    strip[:] = np.rint(strip * 0.28 + np.asarray(INK, np.float32) * 0.72).astype(np.uint8)

    x, middle = gap, strip_height // 2
    radius = max(2, metrics.text // 4)
    cv2.circle(canvas, (x + radius, middle), radius, STATE_COLOURS[state], cv2.FILLED, cv2.LINE_AA)
    x += widths[0] + gap
    blend_text(canvas, text, (x, pad), metrics.text, PAPER)
    x += widths[1] + gap
    if has_bar:
        assert result is not None
        score = float(np.clip(result.score, 0.0, 1.0)) if np.isfinite(result.score) else 0.0
        half = max(1, metrics.text // 5)
        top, bottom = middle - half, middle + half
        right = x + bar_width - 1
        cv2.rectangle(canvas, (x, top), (right, bottom), (84, 90, 100), cv2.FILLED)
        if score > 0.0:
            end = x + max(0, round((bar_width - 1) * score))
            cv2.rectangle(canvas, (x, top), (end, bottom), STATE_COLOURS[state], cv2.FILLED)
        x += bar_width + gap
    if rate:
        blend_text(canvas, rate, (x, pad), metrics.text, PAPER)
