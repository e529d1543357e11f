#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# opencv-python-headless 4.14.0.94, av 18.1.0, NumPy 2.2.6.
#
# CAP_PROP_FRAME_COUNT of a Matroska file is no count: it is the duration times a nominal rate. A file of
# ten frames with a pause of 4.6 s in it (a camera that was stalled, a recorder that writes a frame per
# event) claims 55 frames. CAP_PROP_POS_MSEC of each frame is right, so time must come from there, and
# a count from decoding or from the container's packets.
#
# Expected: 10.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet opencv-python-headless==4.14.0.94 av==18.1.0 numpy==2.2.6
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from fractions import Fraction

import av
import cv2
import numpy as np

path = f"{sys.argv[1]}/pause.mkv"
TIMES_MS = [0, 100, 200, 300, 400, 5000, 5100, 5200, 5300, 5400]
with av.open(path, "w") as container:
    stream = container.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    for index, time_ms in enumerate(TIMES_MS):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * index, np.uint8))
        frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())

with av.open(path) as container:
    packets = sum(packet.pts is not None for packet in container.demux(video=0))
capture = cv2.VideoCapture(path)
claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
rate = capture.get(cv2.CAP_PROP_FPS)
positions = []
while capture.read()[0]:
    positions.append(round(capture.get(cv2.CAP_PROP_POS_MSEC)))
print(f"packets {packets}, CAP_PROP_FRAME_COUNT {claimed}, CAP_PROP_FPS {rate}")
print(f"read {len(positions)} frames at {positions} ms")
assert packets == len(positions) == 10
assert positions == TIMES_MS
assert claimed == 55
PY
echo "unchanged"
