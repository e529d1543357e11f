#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# opencv-contrib-python-headless 4.14.0.94, NumPy 2.2.6.
#
# TrackerKCF does not search in its first update: it returns the box of init, reported as found, and
# learns from the new image at that old place. A target that moved between the two frames is learned
# off centre, so the box stays behind by that step for good, even after the target has stopped.
# TrackerCSRT on the same frames searches at once. A benchmark that starts on frame 1 measures this.
#
# Expected: the first update finds the target where it is, 6 px to the right.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet opencv-contrib-python-headless==4.14.0.94 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import cv2
import numpy as np

random = np.random.default_rng(0)
scene = cv2.GaussianBlur(random.integers(0, 255, (240, 320, 3), np.uint8), (0, 0), 3)
target = cv2.resize(
    random.integers(0, 255, (10, 10, 3), np.uint8), (40, 40), interpolation=cv2.INTER_NEAREST
)


def frame(x):
    image = scene.copy()
    image[100:140, x : x + 40] = target
    return image


for name in ("KCF", "CSRT"):
    tracker = getattr(cv2, f"Tracker{name}").create()
    tracker.init(frame(100), (100, 100, 40, 40))
    truth = [106, 112, 112, 112]
    answers = [tracker.update(frame(x)) for x in truth]
    print(name, "truth", truth, "answers", [box[0] for _, box in answers])
    assert all(found for found, _ in answers)
    behind = [true - box[0] for true, (_, box) in zip(truth, answers)]
    if name == "KCF":
        assert behind == [6, 6, 6, 6], behind
    else:
        assert max(map(abs, behind)) <= 2, behind
PY
echo "unchanged"
