#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# FFmpeg's H.264 decoder says nothing when a reference image is missing, even when told to.
#
# PyAV 18.1.0. One packet of a stream without B-frames is left out, as a lossy network does. With
# err_detect=explode the H.265 decoder raises for each image that builds on the missing one. The
# H.264 decoder returns those images, smeared, without an error and without the mark "corrupt".
# Expected: an error or the mark, as for H.265. The script fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet av==18.1.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
from fractions import Fraction

import av
import numpy as np

COUNT, LOST = 12, 4
av.logging.set_level(av.logging.PANIC)


def picture(index):
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (15, 20, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    image[60:140, 20 + 8 * index : 100 + 8 * index] = (220, 30, 40)
    return image


def packets(encoder, options):
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 320, 240, "yuv420p"
    context.time_base, context.gop_size, context.options = Fraction(1, 30), 100, options
    for index in range(COUNT):
        frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = index
        yield from context.encode(frame)


def decode(encoder, decoder, options):
    context = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode"}
    errors, marked, images = 0, 0, 0
    for index, made in enumerate(packets(encoder, options)):
        if index == LOST:
            continue
        packet = av.Packet(bytes(made))
        packet.pts = index
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError:
            errors += 1
            continue
        for frame in frames:
            images += index > LOST
            marked += frame.is_corrupt
    print(f"{decoder}: after the loss {errors} errors, {images} images, {marked} marked corrupt")
    return errors, images, marked


print("PyAV", av.__version__, "libavcodec", av.library_versions["libavcodec"])
h264 = decode("libx264", "h264", {"tune": "zerolatency", "preset": "veryfast"})
quiet = {"tune": "zerolatency", "preset": "ultrafast", "x265-params": "log-level=none"}
h265 = decode("libx265", "hevc", quiet)
assert h264 == (0, COUNT - LOST - 1, 0), "H.264 has changed"
assert h265[0] > 0 and h265[1] == 0, "H.265 has changed"
PYTHON
echo "unchanged"
