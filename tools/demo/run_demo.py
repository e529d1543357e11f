# SPDX-License-Identifier: Apache-2.0
"""Follow a pedestrian in real footage through the ROS graph, and judge the result.

    make demo                         # or: dev/run python -m tools.demo.run_demo
    make demo ARGS="--synthetic"      # the built-in scene instead of real footage
    make demo ARGS="--model trdimp_tiny"
    make demo ARGS="--pose"           # distance and bearing, see run_pose.py
    make demo ARGS="--lost"           # the target leaves, comes back elsewhere and is found

Launches `track.launch.py` with the camera stand-in, selects the target through `/select_target`
with the program that a user would run, records the topics, and writes `out/demo.mp4`,
`out/demo.png` and `out/demo.json`. Ends with 1 and the reason if the target was not followed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.demo.footage import (
    Footage,
    FootageError,
    lost_scene,
    street_scene,
    synthetic_scene,
)
from tools.demo.pictures import write_contact_sheet, write_moving_picture, write_video
from tools.demo.recording import Recording, judge, judge_return
from tools.harness import HarnessError
from tools.harness.domain import private_domain
from tools.harness.program import Program
from tracker_ros import DEFAULT_MODEL
from tracker_ros.cache import cache_folder
from tracker_ros.cli.options import progress_bar
from tracker_ros.evaluation.machine import describe_machine

if TYPE_CHECKING:
    import numpy as np

    from tools.demo.recorder import Recorder

SILENCE_S = 5.0
"""The recording ends when no new image has come for so long."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo. Returns 0 if the target was followed, else 1 after printing the reason."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    parser.add_argument("--synthetic", action="store_true", help="use the built-in scene")
    parser.add_argument(
        "--pose", action="store_true", help="show distance and bearing in an RGB-D scene instead"
    )
    parser.add_argument(
        "--lost", action="store_true", help="show a target that leaves and comes back elsewhere"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="see `tracker-ros models`")
    parser.add_argument("--weights", type=Path, default=None, help="other weights for the model")
    parser.add_argument(
        "--media", type=Path, default=None, help="also write the README's pictures to this folder"
    )
    options = parser.parse_args(argv)
    began = time.monotonic()
    try:
        if options.pose:
            from tools.demo.run_pose import run_pose

            return run_pose(options.out, _model_arguments(options))
        footage, frames = load_footage(options.synthetic, options.lost)
        with private_domain():
            recording = _record(footage, frames, options.out, _model_arguments(options))
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    boxes, title, away = footage.check_boxes, footage.title, footage.away
    if away is None:
        verdict = judge(recording, boxes, title)
    else:
        verdict = judge_return(recording, boxes, title, away, footage.rate_hz)
    verdict["machine"] = asdict(describe_machine())
    _write(verdict, recording, footage, frames, options)
    _print_summary(verdict, options.out, time.monotonic() - began)
    return 0 if verdict["passed"] else 1


def load_footage(synthetic: bool, lost: bool = False) -> tuple[Footage, list[np.ndarray]]:
    """Return the footage and its frames; the built-in scene if the clip is not available.

    Raises:
        FootageError: The clip is not available, and `lost` wants a target that leaves.
    """
    from tracker_ros.io.sources import open_video

    footage = None
    if not synthetic:
        print("demo: real footage from the Debian package opencv-doc (96 MB the first time) …")
        try:
            footage = (lost_scene if lost else street_scene)(cache_folder("demo"))
        except FootageError as error:
            if lost:
                raise
            print(f"demo: no real footage: {error}\ndemo: using the built-in synthetic scene")
    if footage is None:
        footage = synthetic_scene(
            cache_folder("demo"),
            progress=lambda scenes: progress_bar(scenes, desc="rendering", unit="frame"),
        )
    with open_video(footage.source) as video:
        frames = list(video)
    if len(frames) != footage.frames:
        raise HarnessError(f"{footage.source} has {len(frames)} frames, expected {footage.frames}")
    return footage, frames


def _model_arguments(options: argparse.Namespace) -> list[str]:
    """Return the launch arguments that choose the model."""
    chosen = [f"model:={options.model}"]
    if options.weights is not None:
        chosen.append(f"weights:={options.weights.resolve()}")
    return chosen


def _record(footage: Footage, frames: list[np.ndarray], out: Path, model: list[str]) -> Recording:
    """Run the graph from launch to the last frame. Returns what the topics said."""
    import rclpy

    from tools.demo.recorder import Recorder

    out.mkdir(parents=True, exist_ok=True)
    rclpy.init()
    try:
        with (
            _launch(footage, out / "demo.log", model) as program,
            Recorder(frames, alive=lambda: program.alive) as recorder,
        ):
            try:
                recorder.until(lambda: _ready(recorder, program), "the tracker and an image")
                _select(recorder, footage, out / "select_target.log")
                _play(recorder, footage)
            except HarnessError as error:
                raise HarnessError(f"{error}; {_complaint(program)}") from error
            return recorder.recording()
    finally:
        rclpy.shutdown()


@contextmanager
def _launch(footage: Footage, log: Path, model: list[str]) -> Iterator[Program]:
    """Run `track.launch.py` until the block ends."""
    parameters = {
        "/**/track": {"ros__parameters": {"debug_rate": 0.0}},
        "/**/video": {"ros__parameters": {"rate": footage.rate_hz, "wait_for_target": True}},
    }
    with tempfile.TemporaryDirectory() as folder:
        params_file = Path(folder) / "demo.yaml"
        params_file.write_text(json.dumps(parameters))  # JSON is YAML
        command = ["ros2", "launch", "tracker_ros", "track.launch.py"]
        command += [f"params_file:={params_file}", f"video:={footage.source}", *model]
        with Program(command, log, group=True) as program:
            yield program


def _ready(recorder: Recorder, program: Program) -> bool:
    """Return whether a target can be selected on the first image.

    Raises:
        HarnessError: A launched program logged an error.
    """
    if "[ERROR]" in program.output:
        raise HarnessError("the tracker did not start")
    return recorder.tracker_state.name == "IDLE" and recorder.newest_index == 0


def _select(recorder: Recorder, footage: Footage, log: Path) -> None:
    """Select the target with the program that a user runs, which calls /select_target."""
    command = ["ros2", "run", "tracker_ros", "select_target", "--label", footage.label, "--box"]
    with Program([*command, *(f"{value:g}" for value in footage.first_box)], log) as program:
        recorder.until(lambda: not program.alive, "the answer of select_target")
    said = program.output.strip()
    if program.status:
        raise HarnessError(f"/select_target refused: {said}")
    print(f"demo: /select_target: {said}")


def _play(recorder: Recorder, footage: Footage) -> None:
    """Record until the tracker has answered the last frame, or no image comes for a while."""
    with progress_bar(total=footage.frames, unit="frame", desc="following") as bar:
        while recorder.last_answered < footage.frames - 1:
            shown = recorder.newest_index
            changed = recorder.wait(
                lambda shown=shown: (
                    recorder.newest_index != shown or recorder.last_answered == footage.frames - 1
                ),
                SILENCE_S,
            )
            if not recorder.alive():
                raise HarnessError("the launched programs ended too early")
            if not changed:
                return
            bar.set_postfix_str(recorder.tracker_state.name.lower(), refresh=False)
            bar.update(recorder.newest_index + 1 - bar.n)


def _complaint(program: Program) -> str:
    """Return the first error of the launched programs, or else their last line."""
    errors = [line for line in program.output.splitlines() if "[ERROR]" in line]
    return f"{errors[0]} (full output: {program.log})" if errors else program.last_line


def _write(
    verdict: dict[str, Any],
    recording: Recording,
    footage: Footage,
    frames: list[np.ndarray],
    options: argparse.Namespace,
) -> None:
    """Write the JSON file and the pictures."""
    (options.out / "demo.json").write_text(json.dumps(verdict, indent=2) + "\n")
    write_video(recording, frames, footage.label, options.out / "demo.mp4", footage.rate_hz)
    sheets = [options.out / "demo.png"]
    if options.media is not None:
        sheets.append(options.media / "sheet.webp")
        write_moving_picture(
            recording, frames, footage.label, options.media / "demo.webp", footage.rate_hz
        )
    for sheet in sheets:
        write_contact_sheet(recording, frames, footage.check_boxes, footage.label, sheet)


def _print_summary(verdict: dict[str, Any], out: Path, seconds: float) -> None:
    """Print a summary."""
    frames, latency = verdict["frames"], verdict["latency"]
    verdict_line = "followed" if verdict["passed"] else f"NOT followed: {verdict['reason']}"
    print(f"\n{verdict['footage']}\n  target    {verdict_line}")
    print(
        f"  frames    {frames['in']} in, {frames['given_to_tracker']} given to the tracker, "
        f"{frames['tracked']} tracked ({verdict['tracked_share']:.0%}), "
        f"{frames['dropped']} dropped"
    )
    if latency:
        print(
            f"  latency   p50 {latency['p50']} ms, p95 {latency['p95']} ms, "
            f"p99 {latency['p99']} ms (image stamp to result)"
        )
    checks = " ".join(f"{check['iou']:.2f}" for check in verdict["check_boxes"])
    print(f"  overlap   {verdict['mean_iou']:.2f} mean with hand-placed boxes ({checks})")
    changes = ", ".join(f"{c['time_s']:.1f} s {c['state']}" for c in verdict["state_changes"])
    print(f"  states    {changes}")
    if "found_after_s" in verdict:
        print(f"  found     {verdict['found_after_s']} s after its return")
    print(f"  written   {out / 'demo.mp4'}, {out / 'demo.png'}, {out / 'demo.json'}")
    print(f"  took      {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
