# SPDX-License-Identifier: Apache-2.0
"""Follow one thing through a video and draw what was found."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.cli.options import (
    add_json_option,
    add_model_options,
    model_arguments,
    print_json,
    progress_bar,
    write_json,
)

if TYPE_CHECKING:
    import numpy as np

    from tracker_ros.following.target_state import TargetState
    from tracker_ros.io.sources import VideoSource
    from tracker_ros.tracker import Tracker, TrackResult

SUMMARY = "follow one thing through a video"
PICTURES = (".png", ".jpg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "video",
        help="video file, image folder or glob, webcam index, bag:PATH:TOPIC, or synthetic[:SEED]",
    )
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X", "Y", "W", "H"),
        help="the target in the first frame: top-left corner and size in pixels "
        "(may be left out for the synthetic scene, which knows it)",
    )
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="MASK.png",
        help="the target's pixels in the first frame instead of a box: a picture of its size, "
        "black beside the target",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="video to write (.mp4), or a picture of the last frame (.png, .jpg, .webp)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="OUT.json",
        help="file for boxes, scores and states (default: beside --out)",
    )
    add_json_option(parser)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="see models (default: %(default)s)")
    parser.add_argument("--weights", default=None, help="safetensors file, for models without own")
    add_model_options(parser)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="tint the parts of the search region that were compared with the template (GRM) or "
        "kept (OSTrack *_ce), and darken the rest",
    )
    parser.add_argument("--label", default="", help="what the target is, shown in the tag")
    parser.add_argument("--start", type=int, default=0, help="frames to leave out first")
    parser.add_argument("--count", type=int, default=None, help="frames to take at most")
    parser.add_argument("--fps", type=float, default=None, help="frame rate, if not the source's")


def _check_nothing_is_overwritten(args: argparse.Namespace, results: Path | None) -> None:
    """Refuse to write what is read, or two things into one file."""
    read = [Path(path).resolve() for path in (args.video, args.mask) if path is not None]
    written = [path.resolve() for path in (args.out, results) if path is not None]
    for place, path in enumerate(written):
        if path in read or path.parent in read or path in written[:place]:
            raise ValueError(
                f"{path} would be overwritten or mixed up with the input; give --out and "
                "--results names of their own, elsewhere"
            )


def run(args: argparse.Namespace) -> int:
    """Track, draw, write and report."""
    from tracker_ros.io.sources import open_video

    if args.out is not None and args.out.suffix.lower() not in (".mp4", *PICTURES):
        endings = ", ".join((".mp4", *PICTURES))
        raise ValueError(f"--out is {str(args.out)!r}; give a name ending in one of {endings}")
    if args.explain and args.out is None:
        raise ValueError("--explain draws into the video; give its name with --out")
    if args.box and args.mask:
        raise ValueError("--box and --mask are given; leave one out")
    target = args.results or (args.out.with_suffix(".json") if args.out else None)
    _check_nothing_is_overwritten(args, target)
    mask = _read_mask(args.mask) if args.mask else None
    with open_video(args.video, fps=args.fps, start=args.start, count=args.count) as video:
        from tracker_ros.geometry import tight_box

        box = args.box or (video.first_box if mask is None else tight_box(mask))
        if box is None:
            raise ValueError("--box is missing; give the target in the first frame: --box X Y W H")
        from tracker_ros.registry import create_tracker

        options = model_arguments(args)
        if args.explain and args.backend == "auto":
            options["backend"] = "torch"  # engines return no token mask
        tracker = create_tracker(args.model, weights=args.weights, **options)
        results = _follow(tracker, video, tuple(box), mask, args)
    results = {"video": args.video, "model": args.model, **tracker.runtime_info, **results}

    if target is not None:
        write_json(target, results)
    if args.json:
        print_json(results)
    else:
        _print_summary(results, [path for path in (args.out, target) if path is not None])
    return 0


def _read_mask(path: Path) -> np.ndarray:
    """(H, W) bool of a picture, True where it is not black."""
    import cv2

    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError(f"no mask can be read at {str(path)!r}; give a picture, such as a PNG")
    if not grey.any():
        raise ValueError(f"mask {str(path)!r} is black everywhere; paint the target white")
    return grey > 0


def _follow(
    tracker: Tracker,
    video: VideoSource,
    box: tuple[float, ...],
    mask: np.ndarray | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Track every frame; draw it when a video is wanted. Ctrl-C ends an endless source.

    Starts on `mask` where there is one; `box` is then around it.
    """
    from tracker_ros.following.target_state import TargetState, TargetStateMachine
    from tracker_ros.tracker import TrackResult

    states = TargetStateMachine(0.0)
    target_id = "1"
    frames: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    rate: float | None = None
    seconds = 0.0
    tracker.warm_up()
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(_Drawing(args.out, video.fps)) if args.out else None
        bar = stack.enter_context(
            progress_bar(total=video.frame_count, unit="frame", desc="tracking")
        )
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        for index, image in enumerate(video):
            time_s = index / video.fps
            if index == 0:
                if mask is None:
                    tracker.initialize(image, box)
                else:
                    tracker.initialize_mask(image, mask)
                x, y, w, h = box
                result = TrackResult((x, y, w, h), 1.0, None, (x, y, w, h))
                state = states.state
                if args.explain:
                    _check_explains(tracker, args.model, image, box)
            else:
                started = time.perf_counter()
                result = tracker.track(image)
                elapsed = time.perf_counter() - started
                seconds += elapsed
                rate = 1 / elapsed if rate is None else 1 / (0.9 / rate + 0.1 * elapsed)
                state = states.update(result.score, time_s, result.verdict)
            if not changes or changes[-1]["state"] != state.name:
                changes.append({"frame": index, "time_s": time_s, "state": state.name})
            frames.append(
                {
                    "frame": index,
                    "box": [round(float(value), 2) for value in result.box],
                    "score": round(float(result.score), 4),
                    "state": state.name,
                }
            )
            if writer is not None:
                writer.add(image, result, target_id, args.label, state, rate)
            bar.update()
            bar.set_postfix_str(f"{state.name.lower()} {result.score:.2f}", refresh=False)
    if not frames:
        raise ValueError(f"{video.name} gave no frame; see whether it plays elsewhere")
    return {
        "frames": len(frames),
        "frames_tracked": sum(entry["state"] == TargetState.TRACKING.name for entry in frames),
        "frames_per_second": round((len(frames) - 1) / seconds, 2) if seconds else None,
        "state_changes": changes,
        "results": frames,
    }


def _check_explains(
    tracker: Tracker, model: str, image: np.ndarray, box: tuple[float, ...]
) -> None:
    """Set `Tracker.explain`, or refuse if the results of this model have no token mask."""
    tracker.explain = True
    trial = tracker.fork()
    trial.initialize(image, box)
    if trial.track(image).token_mask is None:
        raise ValueError(
            f"--explain needs a model whose results have a token mask, but {model} with "
            f"{tracker.runtime_info} has none; give a GRM model or an OSTrack model with "
            "candidate elimination (*_ce), with --backend torch"
        )


class _Drawing:
    """The video or picture that is written: drawn frames, and the response map beside them."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._writer: Any = None
        self._last: np.ndarray | None = None

    def add(
        self,
        image: np.ndarray,
        result: TrackResult,
        target_id: str,
        label: str,
        state: TargetState,
        rate: float | None,
    ) -> None:
        """Draw and append one frame; the first decides the video's size."""
        from tracker_ros.drawing.overlay import (
            DrawnTarget,
            colour_map_score,
            draw_targets,
            draw_token_mask,
        )
        from tracker_ros.drawing.side_panel import close_up, place_beside
        from tracker_ros.io.writer import VideoWriter

        ground = image
        if result.token_mask is not None:
            ground = draw_token_mask(image, result.token_mask, result.search_region)
        target = DrawnTarget(result, target_id, label, state)
        drawn = draw_targets(ground, [target], rate_hz=rate)
        score = None
        if result.score_map is not None:
            score = colour_map_score(result.score_map, (256, 256))
        picture = place_beside(drawn, score, close_up(image, result.box))
        if self._path.suffix.lower() in PICTURES:
            self._last = picture
            return
        if self._writer is None:
            self._writer = VideoWriter(self._path, self._fps, (picture.shape[1], picture.shape[0]))
        self._writer.write(picture)

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
        if self._last is not None and kind is None:
            import cv2

            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(self._path), self._last[..., ::-1]):
                raise OSError(f"picture {str(self._path)!r} cannot be written")


def _print_summary(results: dict[str, Any], written: list[Path]) -> None:
    """A few lines for people."""
    frames, tracked = results["frames"], results["frames_tracked"]
    rate = results["frames_per_second"]
    speed = f", {rate:.1f} frames/s" if rate else ""
    where = ", ".join(str(results[key]) for key in ("backend", "precision") if key in results)
    print(f"{results['model']} ({where}): {tracked} of {frames} frames tracked{speed}")
    for change in results["state_changes"]:
        print(f"  {change['time_s']:8.2f} s  frame {change['frame']:5d}  {change['state']}")
    for path in written:
        print(f"wrote {path}")
    sys.stdout.flush()
