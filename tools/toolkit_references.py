# SPDX-License-Identifier: Apache-2.0
"""Ask the public toolkits for their numbers, and keep them for the tests.

    dev/run python -m tools.toolkit_references    # writes test/evaluation/toolkit_references.json

The toolkits are installed into a temporary environment: they ask for opencv-python and numba,
which do not go together with what the development environment has. pytracking is not on PyPI; the
tests compute its definition instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACKAGES = (
    "got10k==0.1.3",
    "vot-toolkit==0.9.0",
    "vot-trax==4.0.2",
    "attributee==0.1.9",  # 0.1.10 cannot be imported on Python 3.11 and later
    "trackeval==1.3.0",
    "scikit-image==0.26.0",
    "matplotlib==3.11.2",
    "pandas",
)
TARGET = Path(__file__).parents[1] / "test" / "evaluation" / "toolkit_references.json"
SIZE = (120, 160)
SEQUENCES = 4

ASK = """
import json, sys
import numpy as np

HEIGHT, WIDTH = %(size)r
rng = np.random.default_rng(7)


def boxes_of(frames, kind):
    start = np.array([50.0, 40, 30, 24])
    true = start + np.cumsum(rng.normal(0, 1.5, (frames, 4)) * [1, 1, 0.3, 0.3], 0)
    found = true + rng.normal(0, (2, 14, 3, 3)[kind], (frames, 4))
    if kind == 2:
        found[frames // 2 :, 0] += 200
    if kind == 3:
        true[:, 0] -= 40
        found[:, 0] -= 40
    found[0] = true[0]
    return np.round(found, 2), np.round(true, 2)


def otb(found, true):
    from got10k.experiments.otb import ExperimentOTB

    experiment = ExperimentOTB.__new__(ExperimentOTB)
    experiment.nbins_iou, experiment.nbins_ce = 21, 51
    success, precision = experiment._calc_curves(*experiment._calc_metrics(found, true))
    return {"success": success.mean(), "precision": precision[20]}


def vot(found, true):
    from vot.analysis.multistart import calculate_overlaps
    from vot.region import Special
    from vot.region.shapes import Rectangle

    regions = [[Rectangle(*box) for box in boxes] for boxes in (found, true)]
    overlaps = calculate_overlaps(*regions, (WIDTH, HEIGHT))
    run = calculate_overlaps([Special(1), *regions[0][1:]], regions[1], (WIDTH, HEIGHT))
    grace, progress = 10, len(run)  # as AccuracyRobustness.subcompute, with one anchor
    for j, overlap in enumerate(run):
        if overlap <= 0.1:
            grace -= 1
            if grace == 0:
                progress = j + 1 - 10
                break
        else:
            grace = 10
    return {
        "overlaps": overlaps,
        "accuracy": sum(run[:progress]) / progress,
        "robustness": progress / len(run),
    }


def ellipse(cx, cy, rx, ry):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1


def masks():
    from pycocotools import mask as coco
    from trackeval.metrics.j_and_f import JAndF

    true = np.column_stack([60.0 + 3 * np.arange(8), np.full(8, 50.0), np.full((8, 2), 18.0)])
    found = np.round(true + rng.normal(0, 2.5, true.shape), 2)
    encode = lambda m: coco.encode(np.asfortranarray(m.astype(np.uint8)))
    data = {
        "num_timesteps": 8, "num_tracker_ids": 1, "num_gt_ids": 1,
        "gt_dets": [[encode(ellipse(*p))] for p in true],
        "tracker_dets": [[encode(ellipse(*p))] for p in found],
        "gt_ids": [np.array([0])] * 8, "tracker_ids": [np.array([0])] * 8,
    }
    scores = JAndF().eval_sequence(data)
    names = {"region": "J-", "contour": "F-"}
    return {"true": true.tolist(), "found": found.tolist(), **{
        part + end: scores[key + (end[1:] or "mean").capitalize()]
        for part, key in names.items() for end in ("", "_recall", "_decay")
    }}


def long_term():
    from types import SimpleNamespace

    from vot.analysis.longterm import compute_tpr_curves, determine_thresholds
    from vot.region import Special
    from vot.region.shapes import Rectangle

    runs = []
    for kind in range(%(sequences)d):
        found, true = boxes_of(30, kind)
        absent = sorted(int(i) for i in rng.choice(np.arange(1, 30), 6 * (kind > 0), False))
        confidence = np.round(rng.uniform(0, 1, 30), 4)
        confidence[absent] = np.round(confidence[absent] / 2, 4)
        confidence[0] = 0.0
        runs.append({"found": found.tolist(), "true": true.tolist(), "absent": absent,
                     "confidence": confidence.tolist()})
    thresholds = determine_thresholds([c for run in runs for c in run["confidence"]], 100)
    curves = []
    for run in runs:
        regions = [Rectangle(*box) for box in run["true"]]
        for index in run["absent"]:
            regions[index] = Special(0)
        sequence = SimpleNamespace(groundtruth=lambda: regions, size=(WIDTH, HEIGHT))
        trajectory = [Special(1), *(Rectangle(*box) for box in run["found"][1:])]
        curves.append(compute_tpr_curves(trajectory, run["confidence"], sequence, thresholds))
    precision, recall = np.mean(curves, axis=0)
    f_scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)  # as FScoreCurve
    best = int(f_scores.argmax())
    return {"runs": runs, "precision": precision[best], "recall": recall[best],
            "f_score": f_scores[best]}


def main():
    from got10k.utils.metrics import rect_iou

    sequences, overlaps = [], []
    for kind in range(%(sequences)d):
        found, true = boxes_of(30, kind)
        cut = rect_iou(found[1:].copy(), true[1:].copy(), bound=(WIDTH, HEIGHT))
        overlaps.append(cut)
        sequences.append({"found": found.tolist(), "true": true.tolist(), "got10k": cut.tolist(),
                          "otb": otb(found, true), "vot": vot(found, true)})
    every = np.concatenate(overlaps)
    total = {"ao": every.mean(), "sr_050": (every > 0.5).mean(), "sr_075": (every > 0.75).mean()}
    answer = {"size": [HEIGHT, WIDTH], "sequences": sequences, "got10k": total, "masks": masks(),
              "long_term": long_term()}
    json.dump(answer, open(sys.argv[1], "w"), default=float, indent=1)


main()
"""


def install_toolkits(folder: Path) -> Path:
    """Install the toolkits in a new environment. Returns its Python."""
    venv.create(folder / "toolkits", with_pip=True)
    python = folder / "toolkits" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def main() -> None:
    """Ask the toolkits and write their answers."""
    with tempfile.TemporaryDirectory() as folder:
        # An environment that has them already may be given.
        python = Path(sys.argv[1]) if len(sys.argv) > 1 else install_toolkits(Path(folder))
        script = Path(folder) / "ask.py"
        script.write_text(ASK % {"size": SIZE, "sequences": SEQUENCES})
        subprocess.run([python, script, TARGET], check=True, cwd=folder)
    content = json.loads(TARGET.read_text())
    content["packages"] = PACKAGES[:5]
    TARGET.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
