# SPDX-License-Identifier: Apache-2.0
"""Fetch the demo's footage: a clip of a Debian package, or else the built-in scene.

The package is downloaded and unpacked into the user's cache folder, never installed. The system's
package lists are neither needed nor changed. The clip's contents are checked by a hash.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_ros.checkpoints import sha256_of
from tracker_ros.geometry import Box

HERE = Path(__file__).resolve().parent
BOXES_FILE = HERE / "vtest.json"
SYNTHETIC_SEED = 3
SYNTHETIC_SIZE = (640, 480)
_TIMEOUT_S = 300

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class FootageError(RuntimeError):
    """The footage is not available; the message says why."""


@dataclass(frozen=True)
class Footage:
    """What the camera stand-in shows, and facts about it."""

    title: str  # description of the footage
    source: str  # source for the program `video`
    rate_hz: float  # frames per second to publish
    label: str  # what the target is
    first_box: Box  # box of the target in the first frame: x, y, w, h in pixels
    check_boxes: dict[int, Box]  # true boxes by frame number, counted from the first frame shown
    frames: int  # number of frames in the stretch
    # the first frame without the target, and the first in which it is back; None if it is always
    # there
    away: tuple[int, int] | None = None


def street_scene(cache: Path) -> Footage:
    """Return the footage of the pedestrian of `vtest.json`.

    Raises:
        FootageError: If the clip cannot be downloaded or is not the one the boxes belong to.
    """
    data = json.loads(BOXES_FILE.read_text())
    clip = _fetch_clip(data["footage"], cache)
    first, frames = data["first_frame"], data["frames"]
    return Footage(
        title=f"{clip.name} of the Debian package {data['footage']['package']}, frames "
        f"{first} to {first + frames - 1}",
        source=f"{clip}#frames={first}:{first + frames}",
        rate_hz=float(data["rate_hz"]),
        label=data["label"],
        first_box=tuple(data["select"]["box"]),
        check_boxes={entry["frame"] - first: tuple(entry["box"]) for entry in data["check_boxes"]},
        frames=frames,
    )


def lost_scene(cache: Path) -> Footage:
    """Return the same footage through a camera that looks away and back to another place.

    It shows a part of the clip at a time, as `views` of `vtest.json` says. The pedestrian leaves
    with the first cut and comes back elsewhere in the image with the second.

    Raises:
        FootageError: As `street_scene`.
    """
    data = json.loads(BOXES_FILE.read_text())
    source = _fetch_clip(data["footage"], cache)
    width, height = data["views"]["size"]
    cuts = data["views"]["cuts"]
    first, away, back = (cut["frame"] for cut in cuts)
    last = data["first_frame"] + data["frames"]
    clip = cache / f"lost-{first}-{away}-{back}-{last}.mp4"
    if not clip.is_file():
        _cut_views(source, clip, cuts, last, (width, height), float(data["rate_hz"]))
    boxes = {}
    for entry in data["check_boxes"]:
        frame, (x, y, w, h) = entry["frame"], entry["box"]
        if frame >= first and not away <= frame < back:
            view = [cut for cut in cuts if cut["frame"] <= frame][-1]
            boxes[frame - first] = (float(x - view["left"]), float(y - view["top"]), w, h)
    return Footage(
        title=f"parts of {source.name} of the Debian package {data['footage']['package']}",
        source=str(clip),
        rate_hz=float(data["rate_hz"]),
        label=data["label"],
        first_box=boxes.pop(0),
        check_boxes=boxes,
        frames=last - first,
        away=(away - first, back - first),
    )


def _cut_views(
    source: Path,
    clip: Path,
    cuts: list[dict[str, int]],
    last: int,
    size: tuple[int, int],
    rate_hz: float,
) -> None:
    """Write a part of each image as a video; each cut says from which frame on which part."""
    from tracker_ros.io.sources import open_video
    from tracker_ros.io.writer import VideoWriter

    width, height = size
    first = cuts[0]["frame"]
    with (
        open_video(f"{source}#frames={first}:{last}") as video,
        VideoWriter(clip, rate_hz, size) as writer,
    ):
        for number, image in enumerate(video, first):
            view = [cut for cut in cuts if cut["frame"] <= number][-1]
            left, top = view["left"], view["top"]
            writer.write(image[top : top + height, left : left + width])


def synthetic_scene(
    cache: Path, frames: int = 150, rate_hz: float = 10.0, progress: Progress = iter
) -> Footage:
    """Return the built-in scene, rendered once into the cache.

    Its true boxes, every 20 frames, take the place of hand-placed ones.

    Args:
        cache: Folder to render into.
        frames: Length of the scene.
        rate_hz: Frames per second to publish.
        progress: Wraps the scenes while they are rendered, for example into a progress bar.
    """
    clip = cache / f"synthetic-{SYNTHETIC_SEED}-{frames}.mp4"
    truth = clip.with_suffix(".json")
    if not (clip.is_file() and truth.is_file()):
        truth.parent.mkdir(parents=True, exist_ok=True)
        truth.write_text(json.dumps(_render(clip, frames, rate_hz, progress)))
    boxes = {entry["frame"]: tuple(entry["box"]) for entry in json.loads(truth.read_text())}
    return Footage(
        title="the built-in synthetic scene",
        source=str(clip),
        rate_hz=rate_hz,
        label="object",
        first_box=boxes.pop(0),
        check_boxes=boxes,
        frames=frames,
    )


def _render(clip: Path, frames: int, rate_hz: float, progress: Progress) -> list[dict[str, Any]]:
    """Write the scene as a video. Returns true boxes of some frames with a visible target."""
    from tracker_ros.io.writer import VideoWriter
    from tracker_ros.synthetic.scene_video import synthetic_video

    boxes = []
    with VideoWriter(clip, rate_hz, SYNTHETIC_SIZE) as writer:
        scenes = progress(synthetic_video(SYNTHETIC_SEED, frames, SYNTHETIC_SIZE))
        for index, scene in enumerate(scenes):
            writer.write(scene.image)
            if index == 0 or (index % 20 == 0 and scene.visibility > 0.5):
                boxes.append({"frame": index, "box": [float(value) for value in scene.box]})
    return boxes


def _fetch_clip(footage: dict[str, str], cache: Path) -> Path:
    """Return the path of the clip in the cache; download it if it is not there."""
    clip = cache / Path(footage["member"]).name
    if clip.is_file() and sha256_of(clip) == footage["sha256"]:
        return clip
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FootageError(f"{tool} is missing: this is not a Debian or Ubuntu system")
    folder = cache / "package"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        package = _download(footage["package"], folder)
        _run(["dpkg-deb", "-x", str(package), str(folder / "unpacked")], folder)
        unpacked = folder / "unpacked" / footage["member"]
        if not unpacked.is_file():
            raise FootageError(f"{package.name} holds no {footage['member']}")
        if sha256_of(unpacked) != footage["sha256"]:
            raise FootageError(
                f"{unpacked.name} of {package.name} has sha256 {sha256_of(unpacked)}, expected "
                f"{footage['sha256']}: the boxes in {BOXES_FILE.name} belong to another clip"
            )
        shutil.move(unpacked, clip)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return clip


def _download(name: str, folder: Path) -> Path:
    """Download a Debian package, with private package lists if the system has none."""
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
    try:
        _run(download, folder)
    except FootageError:
        private = _private_lists(folder / "apt")
        _run(["apt-get", "-q", *private, "update"], folder)
        _run(["apt-get", "-q", *private, "download", name], folder)
    packages = sorted(folder.glob(f"{name}_*.deb"))
    if not packages:
        raise FootageError(f"apt-get download {name} left no file")
    return packages[0]


def _private_lists(root: Path) -> list[str]:
    """Return options that give apt-get its own state in a folder, so that root is not needed."""
    for part in ("lists/partial", "archives/partial"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    settings = {
        "Dir::State": root,
        "Dir::State::lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::Cache": root,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _run(command: list[str], folder: Path) -> None:
    """Run a command. Raises FootageError with its last line if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FootageError(f"{command[0]} took longer than {_TIMEOUT_S} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        last = said[-1] if said else "no message"
        verbs = {"update", "download", "-x"}
        what = " ".join([command[0], *(part for part in command[1:] if part in verbs)])
        raise FootageError(f"{what} failed: {last}")
