# SPDX-License-Identifier: Apache-2.0
"""Follow targets through a video and draw what was found."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.cli.options import (
    BAD_FRAMES,
    Command,
    add_json_option,
    add_model_options,
    add_redetection_options,
    model_arguments,
    print_beside_bar,
    print_json,
    progress_bar,
    redetection_settings,
    write_json,
)
from tracker_ros.cli.targets import (
    add_target_options,
    check_target_options,
    targets_of_boxes,
    targets_of_mask,
)
from tracker_ros.output_files import check_outputs, check_writable, write_whole
from tracker_ros.process import EndRequest, hold_end_signals

if TYPE_CHECKING:
    import numpy as np

    from tracker_ros.following.frames import TargetReport
    from tracker_ros.io.video_source import BadFrame, VideoSource
    from tracker_ros.video_tracking import VideoFrame

MIN_SHEET = 480
"""Least width of a video with explanations, pixels."""
PICTURES = (".png", ".jpg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    sources = (
        "video file, image, image folder, glob or frames/%%04d.jpg, webcam index, address such as "
        "rtsp://…, - for standard input, bag:PATH:TOPIC or synthetic[:SEED]"
    )
    parser.add_argument("video", help=sources)
    add_target_options(parser)
    out = f"video to write (.mp4), or a picture of the last frame ({', '.join(PICTURES)})"
    parser.add_argument("--out", type=Path, help=out)
    results = "file for boxes, scores and states (default: beside --out)"
    parser.add_argument("--results", type=Path, metavar="OUT.json", help=results)
    add_json_option(parser)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="see models (default: %(default)s)")
    parser.add_argument("--weights", help="safetensors file, if none is embedded")
    add_model_options(parser)
    add_redetection_options(parser, default=True)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="draw below each frame what the tracker saw and computed: template, scores, kept "
        "tokens, first views, learned maps, boxes with their IoU, similarities, matched places",
    )
    parser.add_argument("--label", default="", help="what the target is, shown in the tag")
    parser.add_argument("--start", type=int, default=0, help="frames to leave out first")
    parser.add_argument("--count", type=int, help="frames to take at most")
    size = "size of raw RGB frames on standard input, or wanted from a webcam"
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help=size)
    parser.add_argument("--fps", type=float, help="frame rate, if not the source's")
    grey = "counts of 16-bit grey that become black and white: auto, full or LOW,HIGH"
    parser.add_argument("--mono16-range", default="auto", metavar="RANGE", help=grey)


def _check_targets(args: argparse.Namespace, results: Path | None) -> None:
    """Refuse outputs that are inputs, or that cannot be written."""
    from tracker_ros.io.sources import source_path
    from tracker_ros.model_cards import embedded_file, model_cards

    card = model_cards().get(args.model)
    embedded = embedded_file(card.weights) if card and card.weights else None
    inputs = {
        "the video": source_path(args.video),
        "--mask": args.mask,
        "--weights": args.weights or embedded,
        "--engine-cache": args.engine_cache,
    }
    outputs = {"--out": args.out, "--results": results}
    check_outputs(outputs, inputs)
    check_writable(*outputs.values())


def run(args: argparse.Namespace) -> int:
    """Track, draw, write and report."""
    from tracker_ros.io.sources import open_video

    if args.out is not None and args.out.suffix.lower() not in (".mp4", *PICTURES):
        endings = ", ".join((".mp4", *PICTURES))
        raise ValueError(f"--out is {str(args.out)!r}; give a name ending in one of {endings}")
    if args.explain and args.out is None:
        raise ValueError("--explain draws into the video; give its name with --out")
    check_target_options(args)
    redetection = redetection_settings(args)
    target = args.results or (args.out.with_suffix(".json") if args.out else None)
    _check_targets(args, target)
    targets = targets_of_mask(args)
    with open_video(
        args.video,
        fps=args.fps,
        size=tuple(args.size) if args.size else None,
        start=args.start,
        count=args.count,
        mono16_range=args.mono16_range,
    ) as video:
        targets = targets if len(targets) else targets_of_boxes(args, video)
        from tracker_ros.registry import create_tracker
        from tracker_ros.video_tracking import track_targets

        options = model_arguments(args)
        if args.explain and args.backend == "auto":
            options["backend"] = "torch"  # engines return no inner values
        tracker = create_tracker(args.model, weights=args.weights, **options)
        tracker.explain = tracker.illustrate = args.explain
        bad_frames: list[str] = []

        def note_bad_frame(error: BadFrame) -> None:
            bad_frames.append(str(error))
            print_beside_bar(f"tracker-ros track: {error}; the run goes on")

        found = track_targets(
            video,
            targets.boxes,
            targets.masks,
            model=tracker,
            on_bad_frame=note_bad_frame,
            redetection=redetection,
        )
        results = {"video": args.video, "model": args.model, **tracker.runtime_info}
        if targets.objects:
            results["objects"] = list(targets.objects)
        with hold_end_signals() as end:
            collected, failure = _collect(found, video, args, end)
            results |= collected.summary(str(failure) if failure else end.name)
            results["bad_frames"] = bad_frames
            if target is not None:
                write_json(target, results)
    written = [path for path in (args.out, target) if path is not None]
    if args.json:
        print_json(results)
    else:
        _print_summary(results, written if failure is None else written[-1:])
    if failure is not None:
        raise failure
    if end:
        print("tracker-ros track: interrupted; these are the results so far", file=sys.stderr)
    return end.status or (BAD_FRAMES if bad_frames else 0)


def _collect(
    found: Iterator[VideoFrame], video: VideoSource, args: argparse.Namespace, end: EndRequest
) -> tuple[_Results, Exception | None]:
    """Collect every frame's result, and draw it on request, until a request to end.

    Returns the results so far, and what broke them off. Raises what goes wrong in the first frame.
    """
    results = _Results()
    failure: Exception | None = None
    drawing = _Drawing(args.out, video.fps, args.explain) if args.out else None
    with contextlib.ExitStack() as stack:
        bar = progress_bar(total=video.frame_count, unit="frame", desc="tracking")
        stack.enter_context(bar)
        if drawing is not None:
            stack.callback(drawing.discard)
        try:
            for frame in found:
                results.add(frame)
                if drawing is not None:
                    failure = drawing.add(frame, args.label, results.rate)
                bar.update()
                first = frame.targets[0]
                bar.set_postfix_str(f"{first.state.name.lower()} {first.score:.2f}", False)
                if end or failure is not None:
                    break
        except KeyboardInterrupt as interrupt:  # the second signal
            end.note(interrupt)
        except (ValueError, RuntimeError, OSError) as error:
            if not results.frames:
                raise
            failure = error
        if drawing is not None:
            failure = drawing.finish() or failure
    return results, failure


class _Results:
    """Boxes, scores and states so far."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []
        self._states: dict[str, str] = {}
        self._tracked = 0
        self._seconds = self._mean_seconds = 0.0

    @property
    def rate(self) -> float | None:
        """Frames per second lately."""
        return 1 / self._mean_seconds if self._mean_seconds else None

    def add(self, frame: VideoFrame) -> None:
        """Add a frame's results; of several targets, each entry has the target's id."""
        mean = self._mean_seconds
        self._seconds += frame.seconds
        self._mean_seconds = 0.9 * mean + 0.1 * frame.seconds if mean else self._seconds
        entries = []
        for target in frame.targets:
            name = {"target_id": target.target_id} if len(frame.targets) > 1 else {}
            state = target.state.name
            if self._states.get(target.target_id) != state:
                self._states[target.target_id] = state
                change = {"frame": frame.index, "time_s": frame.time, "state": state}
                self._changes.append(change | name)
            doubt = {"doubt": target.doubt.name} if target.doubt else {}
            entries.append(name | _box_and_score(target) | {"state": state} | doubt)
        entry = entries[0] if len(entries) == 1 else {"targets": entries}
        self.frames.append({"frame": frame.index, "time_s": round(frame.time, 4), **entry})
        self._tracked += all(state == "TRACKING" for state in self._states.values())

    def summary(self, ended_by: str) -> dict[str, Any]:
        """Return all as data; `ended_by` says what broke them off, if anything did."""
        count, seconds = len(self.frames), self._seconds
        return {
            "complete": not ended_by,
            **({"ended_by": ended_by} if ended_by else {}),
            "frames": count,
            "frames_tracked": self._tracked,
            "frames_per_second": round((count - 1) / seconds, 2) if seconds else None,
            "state_changes": self._changes,
            "results": self.frames,
        }


def _box_and_score(target: TargetReport) -> dict[str, Any]:
    """Return box, score and the tracker's verdict on a target tracked in this frame."""
    if target.result is None:
        return {}
    box = [round(float(value), 2) for value in target.result.box]
    verdict = {} if target.result.verdict is None else {"verdict": target.result.verdict.value}
    return {"box": box, "score": round(float(target.score), 4), **verdict}


class _Drawing:
    """The video or picture to write: drawn frames with the response map beside them."""

    def __init__(self, path: Path, fps: float, explain: bool) -> None:
        self._path = path
        self._fps = fps
        self._explain = explain
        self._writer: Any = None
        self._last: np.ndarray | None = None

    def add(self, frame: VideoFrame, label: str, rate: float | None) -> OSError | None:
        """Draw and append one frame; the first one decides the size of the video.

        Returns why the video cannot be written; an earlier one is then left as it was.
        """
        import numpy as np

        from tracker_ros.drawing import overlay
        from tracker_ros.drawing.views import draw_sheet
        from tracker_ros.io.writer import VideoWriter, fit_picture

        image, result, score = frame.image, frame.targets[0].result, None
        if result is not None and result.token_mask is not None:
            image = overlay.draw_token_mask(image, result.token_mask, result.search_region)
        targets = [
            overlay.DrawnTarget(each.result, each.target_id, label, each.state)
            for each in frame.targets
        ]
        drawn = overlay.draw_targets(image, targets, rate_hz=rate)
        if result is not None and result.score_map is not None:
            score = overlay.colour_map_score(result.score_map, (256, 256))
        view = None if result is None else overlay.close_up(frame.image, result.box)
        picture = overlay.place_beside(drawn, score, view)
        if self._explain:
            width = max(picture.shape[1], MIN_SHEET)
            views = () if result is None else result.views
            sheet = draw_sheet(views, width, width * 3 // 4)
            wider = np.zeros((picture.shape[0], width - picture.shape[1], 3), np.uint8)
            picture = np.concatenate([np.concatenate([picture, wider], axis=1), sheet])
        if self._path.suffix.lower() in PICTURES:
            self._last = picture
            return None
        try:
            if self._writer is None:
                size = (picture.shape[1], picture.shape[0])
                self._writer = VideoWriter(self._path, self._fps, size)
            self._writer.write(fit_picture(picture, self._writer.size), frame.time)
        except OSError as error:
            self.discard()
            return error
        return None

    def finish(self) -> OSError | None:
        """Write what was drawn. Returns why that failed; an earlier file is left as it was."""
        try:
            if self._writer is not None:
                self._writer.close()
            if self._last is not None:
                self._write_picture(self._last)
        except OSError as error:
            return error
        return None

    def discard(self) -> None:
        """Drop what was drawn, unless it is written."""
        if self._writer is not None:
            self._writer.discard()
        self._last = None

    def _write_picture(self, picture: np.ndarray) -> None:
        import cv2

        encoded, data = cv2.imencode(self._path.suffix, picture[..., ::-1])
        if not encoded:
            raise OSError(f"OpenCV cannot write {self._path}; give a name that ends in .png")
        write_whole(self._path, data.tobytes())


def _print_summary(results: dict[str, Any], written: list[Path]) -> None:
    frames, tracked, rate = (
        results[key] for key in ("frames", "frames_tracked", "frames_per_second")
    )
    speed = f", {rate:.1f} frames/s" if rate else ""
    where = ", ".join(str(results[key]) for key in ("backend", "precision") if key in results)
    print(f"{results['model']} ({where}): {tracked} of {frames} frames tracked{speed}")
    for change in results["state_changes"]:
        name = f"  target {change['target_id']}" if "target_id" in change else ""
        when = f"  {change['time_s']:8.2f} s  frame {change['frame']:5d}"
        print(f"{when}{name}  {change['state']}")
    for path in written:
        print(f"wrote {path}")
    sys.stdout.flush()


TRACK = Command(
    "follow targets through a video",
    "Follow targets through a video and draw what was found.",
    add_arguments,
    run,
)
