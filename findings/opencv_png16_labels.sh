#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# opencv-python-headless 4.14.0.94, NumPy 2.2.6, pillow 12.0.0.
#
# A mask written as a 16-bit PNG with the value 255 on the object, as label tools do that count beyond
# 255 objects, is entirely black for cv2.imread with its default flag and with IMREAD_GRAYSCALE: both
# keep the high byte. The values 256 to 511 all become 1. Nothing is raised; only IMREAD_UNCHANGED (or
# IMREAD_ANYDEPTH) tells.
#
# Expected by who writes masks: 255 stays visible, or an error.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet opencv-python-headless==4.14.0.94 numpy==2.2.6 pillow==12.0.0
"$work/venv/bin/python" - "$work" <<'PY'
import sys

import cv2
import numpy as np
from PIL import Image

path = f"{sys.argv[1]}/mask.png"
mask = np.zeros((8, 8), np.uint16)
mask[2:4, 2:6] = 255
mask[5:7, 2:6] = 300
Image.fromarray(mask).save(path)
for flag in ("IMREAD_COLOR", "IMREAD_GRAYSCALE", "IMREAD_ANYDEPTH", "IMREAD_UNCHANGED"):
    read = cv2.imread(path, getattr(cv2, flag))
    print(f"{flag:17} {read.dtype} values {sorted(set(read.ravel().tolist()))}")
    whole = flag in ("IMREAD_ANYDEPTH", "IMREAD_UNCHANGED")
    assert set(read.ravel().tolist()) == ({0, 255, 300} if whole else {0, 1})
PY
echo "unchanged"
