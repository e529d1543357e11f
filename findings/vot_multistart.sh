#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vot-toolkit 0.9.0 (vot-trax 4.0.2, attributee 0.1.9) on Python 3.11.7.
#
# `vot evaluate` of a multi-start experiment, that of the short-term challenges from 2020 to 2022, ends with
# "ObjectQuery.state must be a Region" for every tracker, also the toolkit's own: the experiment hands over a
# region with its properties where the region alone is wanted. An unsupervised experiment works.
#
# Expected by who evaluates a tracker: results in the workspace.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet vot-toolkit==0.9.0 vot-trax==4.0.2 attributee==0.1.9
mkdir -p "$work/ws/sequences/still/color"
"$work/venv/bin/python" - "$work/ws" <<'PY'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

workspace, count = Path(sys.argv[1]), 10
still = workspace / "sequences" / "still"
picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
for number in range(1, count + 1):
    picture.save(still / "color" / f"{number:08d}.jpg")
(still / "groundtruth.txt").write_text("20,20,20,20\n" * count)
(still / "anchor.value").write_text("1\n" + "0\n" * (count - 1))
(still / "sequence").write_text(f"name=still\nfps=30\nformat=default\nlength={count}\nwidth=80\nheight=60\n")
(workspace / "sequences" / "list.txt").write_text("still\n")
(workspace / "trackers.ini").write_text(
    f"[own]\nlabel = own\nprotocol = trax\ncommand = {sys.executable} -m vot.tracker.dummy\n"
)
PY
for kind in multistart unsupervised; do
  printf 'title: One still sequence\nexperiments:\n  %s:\n    type: %s\n' "$kind" "$kind" >"$work/ws/stack.yaml"
  [ -e "$work/ws/config.yaml" ] || "$work/venv/bin/vot" initialize --workspace "$work/ws" --nodownload custom >"$work/log" 2>&1
  "$work/venv/bin/vot" evaluate --workspace "$work/ws" own >"$work/log" 2>&1 || true
  results="$(find "$work/ws/results/own/$kind" -type f -name "still*" 2>/dev/null | wc -l || true)"
  echo "$kind: $results trajectories; $(grep -o 'ObjectQuery.*Region' "$work/log" | head -1 || true)"
  case "$kind" in
    multistart) [ "$results" = 0 ] || { echo "the behaviour has changed"; exit 1; } ;;
    *) [ "$results" -gt 0 ] || { echo "the behaviour has changed"; tail -5 "$work/log"; exit 1; } ;;
  esac
done
echo "unchanged"
