# SPDX-License-Identifier: Apache-2.0
"""Cut runs of frames out of real clips, for trackers that learn from unlabelled video.

`tools/fetch_pictures.py` collects the clips inside some Debian and Python packages; any others
will do. They are kept as compressed pictures, cut where the scene changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.output_files import replacement
from tracker_ros.synthetic.moving_scenes import FrameBatch, FrameConfig, develop_run
from tracker_ros.synthetic.render import Draw
from tracker_ros.synthetic.textures import read_arrays

HEIGHT = 256
"""Shorter side of the frames that are kept, pixels."""
QUALITY = 70
CUT = 24.0
"""Mean difference of two thumbnails, of 255, above which they are of different scenes."""
MAX_STEP = 4
"""Maximum distance between successive frames of a run, in frames of the clip."""
MIN_FRAMES = 8
"""Minimum number of frames of a scene; shorter ones are left out."""


def with_shorter_side(frame: np.ndarray, side: int) -> np.ndarray:
    """Resize an (H, W, 3) frame so that its shorter side has `side` pixels."""
    scale = side / min(frame.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method)


@dataclass(frozen=True)
class Footage:
    """Scenes of real clips, the frames of each (N, H, W, 3) uint8 RGB."""

    scenes: tuple[np.ndarray, ...]

    @classmethod
    def cut(cls, frames: Iterable[np.ndarray]) -> Footage:
        """Shrink the (H, W, 3) frames of a clip and cut it into scenes."""
        scenes: list[list[np.ndarray]] = [[]]
        before = None
        for frame in frames:
            small = with_shorter_side(frame, HEIGHT)
            thumbnail = cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA).astype(float)
            if before is not None and np.abs(thumbnail - before).mean() > CUT:
                scenes.append([])
            before = thumbnail
            scenes[-1].append(small)
        return cls(tuple(np.stack(scene) for scene in scenes if len(scene) >= MIN_FRAMES))

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` of WebP pictures."""
        encoded = [
            cv2.imencode(".webp", frame[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
            for scene in self.scenes
            for frame in scene
        ]
        with replacement(Path(path)) as place, place.open("wb") as file:
            np.savez(
                file,
                pictures=np.concatenate([picture.ravel() for picture in encoded]),
                bytes=np.array([picture.size for picture in encoded]),
                frames=np.array([len(scene) for scene in self.scenes]),
            )

    @classmethod
    def load(cls, path: str | Path) -> Footage:
        """Read what :meth:`save` wrote; raises ValueError if the file holds something else."""
        arrays = read_arrays(path, "pictures", "bytes", "frames")
        pictures = np.split(arrays["pictures"], np.cumsum(arrays["bytes"])[:-1])
        lengths = arrays["frames"]
        bgr = [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in pictures]
        frames = [picture[..., ::-1] for picture in bgr if picture is not None]
        if len(frames) < len(bgr):
            raise ValueError(
                f"{path}: {len(bgr) - len(frames)} of {len(bgr)} pictures are damaged; "
                "make the file again with `python -m tools.fetch_pictures`"
            )
        scenes = np.split(np.arange(len(frames)), np.cumsum(lengths)[:-1])
        return cls(tuple(np.stack([frames[i] for i in scene]) for scene in scenes))


class Frames(Protocol):
    """The frames of a video, read on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: list[int]) -> Tensor:
        """Return (T, H, W, 3) uint8 RGB frames."""


class FootageRuns:
    """Draw :class:`FrameBatch` objects without labels, each a function of its seed alone.

    A run is one square of all its frames, forwards or backwards, with every frame of the scene or
    every second to fourth. With a `far_gap`, its first frame lies further back, or at the scene's
    beginning. Scenes are (N, H, W, 3) frames, moved to the device once, or read them on demand.
    """

    def __init__(
        self,
        scenes: Sequence[np.ndarray | Frames],
        device: str | torch.device,
        config: FrameConfig,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        if not scenes or min(len(scene) for scene in scenes) < config.frames:
            raise ValueError(
                f"footage of {len(scenes)} scenes; expected some, each of at least "
                f"{config.frames} frames; lower frames.frames or use longer clips"
            )
        self.scenes: list[Tensor | Frames] = [
            torch.from_numpy(scene).to(self.device) if isinstance(scene, np.ndarray) else scene
            for scene in scenes
        ]
        # A long scene shows little more than a short one, so its share grows more slowly.
        self.shares = torch.tensor([len(scene) for scene in scenes]).sqrt()

    def batch(self, size: int, seed: int) -> FrameBatch:
        """Draw ``size`` runs. The same seed gives the same runs on the same kind of device."""
        chance = torch.Generator().manual_seed(seed)
        picks = torch.multinomial(self.shares, size, replacement=True, generator=chance)
        runs = [self._run(self.scenes[int(i)], chance) for i in picks]
        images = torch.stack(runs).float() / 255
        return FrameBatch(develop_run(Draw(self.device, seed), images, self.config), None)

    def _run(self, scene: Tensor | Frames, chance: torch.Generator) -> Tensor:
        """Draw a run (T, 3, S, S), 0 to 255, of one scene (N, H, W, 3)."""
        c = self.config
        share = torch.rand(7, generator=chance).tolist()
        longest = min(MAX_STEP, (len(scene) - 1) // max(1, c.frames - 1))
        step = 1 + int(share[0] * longest)
        span = step * (c.frames - 1) + 1
        first = int(share[1] * (len(scene) - span + 1))
        numbers = list(range(first, first + span, step))
        if c.far_gap:
            numbers[0] = max(0, numbers[1] - c.far_gap)
        frames = scene[numbers].to(self.device)
        height, width = frames.shape[1:3]
        side = int((0.6 + 0.4 * share[2]) * min(height, width))
        y, x = int(share[3] * (height - side + 1)), int(share[4] * (width - side + 1))
        square = frames[:, y : y + side, x : x + side].permute(0, 3, 1, 2).float()
        square = F.interpolate(square, (c.size, c.size), mode="bilinear", align_corners=False)
        square = square.flip(0) if share[5] < 0.5 and not c.far_gap else square
        return square.flip(3) if share[6] < 0.5 else square
