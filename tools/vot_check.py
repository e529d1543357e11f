# SPDX-License-Identifier: Apache-2.0
"""Let the real VOT toolkit run our tracker, and compare its scores with those of `evaluate`.

    dev/run python -m tools.vot_check [PYTHON]

Draws two sequences, makes a workspace with `vot initialize`, runs `tracker-ros trax` in it with
`vot evaluate`, asks `vot analysis` for the scores, and runs `tracker-ros evaluate` on the same
sequences. Exits with status 1 if a score differs by more than 0.01: the toolkit hands over boxes
in single precision and writes them with four digits.

The toolkit is installed into a temporary environment, unless PYTHON is one that has it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from tools.toolkit_references import install_toolkits
from tracker_ros.synthetic.scene_video import synthetic_video

MODEL = "ostrack_tiny"
FRAMES, SIZE = 25, (320, 240)
TOLERANCE = 0.01

TRACKERS = f"""\
[{MODEL}]
label = {MODEL}
protocol = trax
command = {{command}} trax --model {MODEL} --device cpu --backend torch
timeout = 120
"""

STACK = """\
title: Drawn scenes
experiments:
  baseline:
    type: unsupervised
    repetitions: 1
    analyses:
      - type: average_tpr
"""
"""Multi-start experiments of vot-toolkit 0.9.0 end before a tracker is asked (findings/)."""


def main() -> int:
    """Run both, print the scores side by side, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        python = Path(sys.argv[1]) if len(sys.argv) > 1 else install_toolkits(Path(folder))
        draw_sequences(workspace / "sequences")
        command = shutil.which("tracker-ros") or "tracker-ros"
        (workspace / "trackers.ini").write_text(TRACKERS.format(command=command))
        (workspace / "stack.yaml").write_text(STACK)
        vot = str(python.with_name("vot"))
        place = ["--workspace", str(workspace)]
        subprocess.run([vot, "initialize", *place, "--nodownload", "custom"], check=True)
        subprocess.run([vot, "evaluate", *place, MODEL], check=True)
        subprocess.run([vot, "analysis", *place, "--format", "json", MODEL], check=True)
        theirs = toolkit_scores(workspace)
        ours = own_scores(command, workspace / "sequences")
    print(f"{'':20}{'toolkit':>10}{'evaluate':>10}")
    for name, score in theirs.items():
        print(f"{name:20}{score:10.4f}{ours[name]:10.4f}")
    return int(any(abs(theirs[name] - ours[name]) > TOLERANCE for name in theirs))


def draw_sequences(folder: Path) -> None:
    """Draw two sequences as the toolkit reads them."""
    names = []
    for seed in (1, 2):
        names.append(f"scene{seed}")
        place = folder / names[-1]
        (place / "color").mkdir(parents=True)
        lines = []
        for number, scene in enumerate(synthetic_video(seed, FRAMES, SIZE), 1):
            cv2.imwrite(str(place / "color" / f"{number:08d}.jpg"), scene.image[..., ::-1])
            lines.append(",".join(f"{value:.2f}" for value in scene.box))
        (place / "groundtruth.txt").write_text("\n".join(lines) + "\n")
        (place / "sequence").write_text(
            f"name={names[-1]}\nfps=30\nformat=default\nchannels.color=color/%08d.jpg\n"
            f"length={FRAMES}\nwidth={SIZE[0]}\nheight={SIZE[1]}\n"
        )
    (folder / "list.txt").write_text("\n".join(names) + "\n")


def toolkit_scores(workspace: Path) -> dict[str, float]:
    """Return the scores in the newest analysis of a workspace."""
    (file,) = sorted(workspace.glob("analysis/**/*.json"))[-1:]
    found = json.loads(file.read_text())["results"]["baseline"]["results"]
    return dict(zip(("precision", "recall", "f_score"), numbers_in(found), strict=True))


def numbers_in(data: object) -> list[float]:
    """Return the numbers in nested lists."""
    if isinstance(data, list):
        return [number for part in data for number in numbers_in(part)]
    return [float(data)] if isinstance(data, (int, float)) else []


def own_scores(command: str, sequences: Path) -> dict[str, float]:
    """Return the scores of `tracker-ros evaluate` on the same sequences."""
    arguments = ["evaluate", str(sequences), "--models", MODEL, "--device", "cpu"]
    done = subprocess.run(
        [command, *arguments, "--backend", "torch", "--json"],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    scores = json.loads(done.stdout)["trackers"][0]["benchmarks"]
    return dict(scores["vot_long_term"])


if __name__ == "__main__":
    sys.exit(main())
