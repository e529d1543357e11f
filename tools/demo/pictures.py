# SPDX-License-Identifier: Apache-2.0
"""Draw the demo's pictures: video, contact sheet, and a small animation for the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tools.demo.recording import FrameRecord, Recording, newest_answer
from tracker_ros.drawing.overlay import DrawnTarget, close_up, draw_targets, place_beside
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import Box, iou
from tracker_ros.io.writer import VideoWriter
from tracker_ros.tracker import TrackResult

_SHEET_COLUMNS = (4, 3)
_TILE_WIDTH = 384
_CHECK_COLOUR = (255, 255, 255)


def drawn_frames(
    recording: Recording, frames: Sequence[np.ndarray], label: str
) -> Iterator[tuple[FrameRecord, int, np.ndarray]]:
    """Draw each frame once, from the selection on, with what the topics had said until then.

    Args:
        recording: Messages of the topics.
        frames: The footage by frame number.
        label: What the target is.

    Yields:
        The latest record, the frame's number, and its picture, (H, W + panel, 3) uint8 RGB.
    """
    interval_s: float | None = None
    previous: FrameRecord | None = None
    answered = recording.answered()
    state = TargetState.IDLE
    held = {frame.stamp_ns for frame in answered if frame.index == 0}
    started = min((frame.stamp_ns for frame in answered), default=0)
    for record in recording.frames:
        is_repeat = record.index == 0 and record.stamp_ns != max(held, default=0)
        if record.stamp_ns < started or is_repeat:
            continue
        if record.state is not None:
            state = record.state
            if previous is not None and record.heard_s > previous.heard_s:
                gap_s = record.heard_s - previous.heard_s
                interval_s = gap_s if interval_s is None else 0.9 * interval_s + 0.1 * gap_s
            previous = record
        known = newest_answer(answered, record.index) or record
        result = None
        if known.box is not None:
            result = TrackResult(known.box, known.score, None, known.box)
        picture = draw_targets(
            frames[record.index],
            [DrawnTarget(result, known.target_id, label, state)],
            rate_hz=1.0 / interval_s if interval_s else None,
        )
        target = None if known.box is None else close_up(frames[record.index], known.box)
        yield known, record.index, place_beside(picture, known.score_image, target)


def write_video(
    recording: Recording, frames: Sequence[np.ndarray], label: str, path: Path, fps: float
) -> int:
    """Write the drawn frames as a video. Returns their number."""
    writer: VideoWriter | None = None
    for _, _, picture in drawn_frames(recording, frames, label):
        if writer is None:
            writer = VideoWriter(path, fps, (picture.shape[1], picture.shape[0]))
        writer.write(picture)
    if writer is None:
        return 0
    writer.close()
    return writer.frames_written


def write_contact_sheet(
    recording: Recording,
    frames: Sequence[np.ndarray],
    check_boxes: Mapping[int, Box],
    label: str,
    path: Path,
) -> None:
    """Write one picture of the frames with check boxes: both boxes drawn, overlap in words."""
    tiles = []
    for record, index, picture in drawn_frames(recording, frames, label):
        box = check_boxes.get(index)
        if box is None:
            continue
        tile = picture[:, : frames[index].shape[1]].copy()
        _draw_check_box(tile, box)
        overlap = 0.0 if record.box is None else iou(record.box, box)
        height = round(_TILE_WIDTH * tile.shape[0] / tile.shape[1])
        tile = cv2.resize(tile, (_TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
        caption = f"frame {index}   overlap {overlap:.2f}"
        _caption(tile, caption)
        tiles.append(tile)
    if not tiles:
        return
    blank = np.zeros_like(tiles[0])
    columns = min(_SHEET_COLUMNS, key=lambda width: -len(tiles) % width)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [
        np.concatenate(tiles[start : start + columns], axis=1)
        for start in range(0, len(tiles), columns)
    ]
    sheet = np.concatenate(rows, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_WEBP_QUALITY, 80] if path.suffix == ".webp" else []
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), quality)


def write_moving_picture(
    recording: Recording, frames: Sequence[np.ndarray], label: str, path: Path, fps: float
) -> None:
    """Write every second frame as a small animated WebP."""
    from PIL import Image

    pictures = [
        Image.fromarray(
            cv2.resize(
                picture,
                (480, round(480 * picture.shape[0] / picture.shape[1])),
                interpolation=cv2.INTER_AREA,
            )
        )
        for _, _, picture in drawn_frames(recording, frames, label)
    ][::2]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=round(2000 / fps),
        loop=0,
        quality=55,
        method=4,
    )


def _draw_check_box(image: np.ndarray, box: Box) -> None:
    x, y, w, h = (round(value) for value in box)
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (0, 0, 0), 3, cv2.LINE_AA)
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), _CHECK_COLOUR, 1, cv2.LINE_AA)


def _caption(image: np.ndarray, text: str) -> None:
    """Write a line at the lower edge."""
    height = image.shape[0]
    image[height - 26 :] = (image[height - 26 :] * 0.3).astype(np.uint8)
    cv2.putText(
        image,
        text,
        (10, height - 8),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.5,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
