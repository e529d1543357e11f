# SPDX-License-Identifier: Apache-2.0
"""Recordings that the tests of bags make: a disc that moves, with all that a robot records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker_ros.io.bag_writer import BagWriter

WIDTH, HEIGHT, SIDE = 320, 240, 48
START_NS = 1_700_000_000_000_000_000
STEP_NS = 33_333_333
DISTANCE_M = 3.0
FOCAL = 300.0
KINDS = {
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/depth": "sensor_msgs/msg/Image",
    "/selection": "vision_msgs/msg/Detection2D",
    "/truth": "vision_msgs/msg/Detection2DArray",
    "/select_target/_service_event": "tracker_interfaces/srv/SelectTarget_Event",
}


def box(index: float) -> tuple[float, float, float, float]:
    """Return ``(x, y, w, h)`` of the disc."""
    x = WIDTH * (0.42 + 0.36 * np.sin(index * 0.05))
    y = HEIGHT * (0.40 + 0.15 * np.sin(index * 0.034))
    return float(int(x)), float(int(y)), float(SIDE), float(SIDE)


def picture(index: int, visible: bool = True) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 200, (9, 12, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    image = cv2.add(image, rng.integers(0, 24, image.shape).astype(np.uint8))
    if visible:
        x, y, w, _ = (int(value) for value in box(index))
        cv2.circle(image, (x + w // 2, y + w // 2), w // 2, (235, 40, 50), -1)
        cv2.circle(image, (x + w // 3, y + w // 3), w // 6, (250, 240, 40), -1)
        cv2.circle(image, (x + w // 2, y + 2 * w // 3), w // 7, (30, 60, 220), -1)
    return image


def header(stamp_ns: int, frame_id: str = "camera") -> dict[str, Any]:
    """Return the content of a header."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": frame_id}


def image(pixels: np.ndarray, stamp_ns: int, encoding: str = "rgb8") -> dict[str, Any]:
    """Return the content of an Image."""
    data = np.ascontiguousarray(pixels)
    return {
        "header": header(stamp_ns),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "step": data.strides[0],
        "data": data.view(np.uint8).reshape(-1),
    }


def compressed(pixels: np.ndarray, stamp_ns: int) -> dict[str, Any]:
    """Return the content of a CompressedImage (PNG, so that nothing is lost)."""
    data = cv2.imencode(".png", pixels[..., ::-1])[1].reshape(-1)
    return {"header": header(stamp_ns), "format": "rgb8; png compressed bgr8", "data": data}


def bounding_box(of: tuple[float, float, float, float]) -> dict[str, Any]:
    """Return the content of a BoundingBox2D."""
    x, y, w, h = of
    return {
        "center": {"position": {"x": x + w / 2, "y": y + h / 2}},
        "size_x": w,
        "size_y": h,
    }


def detection(of: tuple[float, float, float, float], stamp_ns: int) -> dict[str, Any]:
    """Return the content of a Detection2D."""
    hypothesis = {"hypothesis": {"class_id": "disc", "score": 1.0}}
    content = {"header": header(stamp_ns), "bbox": bounding_box(of), "results": [hypothesis]}
    return content


def camera_info(stamp_ns: int) -> dict[str, Any]:
    """Return the content of a CameraInfo."""
    k = [FOCAL, 0, WIDTH / 2, 0, FOCAL, HEIGHT / 2, 0, 0, 1]
    return {
        "header": header(stamp_ns),
        "width": WIDTH,
        "height": HEIGHT,
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": k,
        "r": np.eye(3).ravel(),
        "p": [*k[:3], 0, *k[3:6], 0, *k[6:], 0],
    }


def select_event(
    of: tuple[float, float, float, float], stamp_ns: int, event_type: int = 1
) -> dict[str, Any]:
    """Return the content of a recorded call of select_target."""
    request = {"header": header(stamp_ns), "bbox": bounding_box(of), "label": "called"}
    info = {"event_type": event_type, "sequence_number": 7}
    return {"info": info, "request": [request]}


def record(
    path: Path,
    frames: int = 30,
    *,
    topics: Collection[str] = ("/camera/image_raw",),
    hidden: Collection[int] = (),
    extra: Mapping[int, tuple[str, Mapping[str, Any]]] | None = None,
) -> Path:
    """Record a disc; returns the path.

    Args:
        path: The bag.
        frames: How many images, at 30 Hz.
        topics: What is recorded, of `KINDS`.
        hidden: Images that do not show the disc.
        extra: A message that is recorded just after an image, by the image's number.
    """
    writer = BagWriter(path)
    extra = extra or {}
    for topic in dict.fromkeys([*topics, *(topic for topic, _ in extra.values())]):
        writer.add_topic(topic, KINDS[topic])
    for index in range(frames):
        stamp_ns = START_NS + index * STEP_NS
        time_ns = stamp_ns + 5_000_000
        pixels = picture(index, index not in hidden)
        depth = np.full((HEIGHT, WIDTH), round(DISTANCE_M * 1000), "<u2")
        found = [] if index in hidden else [detection(box(index), stamp_ns)]
        contents = {
            "/camera/image_raw": lambda p=pixels, s=stamp_ns: image(p, s),
            "/camera/image_raw/compressed": lambda p=pixels, s=stamp_ns: compressed(p, s),
            "/camera/camera_info": lambda s=stamp_ns: camera_info(s),
            "/depth": lambda d=depth, s=stamp_ns: image(d, s, "16UC1"),
            "/truth": lambda f=found, s=stamp_ns: {"header": header(s), "detections": f},
        }
        for topic in topics:
            late_ns = 0 if topic.startswith("/camera/image") else 3_000_000
            writer.write(topic, time_ns + late_ns, contents[topic]())
        if index in extra:
            topic, content = extra[index]
            writer.write(topic, time_ns + 4_000_000, content)
    writer.finish()
    return path
