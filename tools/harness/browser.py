# SPDX-License-Identifier: Apache-2.0
"""Start Chromium without a window, and read numbers that are drawn in pictures on a page."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
QUIET = (
    "--no-sandbox",  # it needs rights that containers do not give
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
BITS, PER_ROW, SIDE = 48, 24, 20


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Start Chromium and end it with the block; dev/browser finds or installs it."""
    found = subprocess.run([ROOT / "dev/browser"], stdout=subprocess.PIPE, text=True, check=True)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found.stdout.strip(), args=[*QUIET, *flags]
        )
        try:
            yield started
        finally:
            started.close()


def draw_number(pixels: np.ndarray, number: int) -> None:
    """Draw a number below 2**48 at the top left of (H, W, 3) pixels.

    The squares, black for 0 and white for 1, take 480 x 40 pixels and survive JPEG and H.264.
    """
    for bit in range(BITS):
        row, column = divmod(bit, PER_ROW)
        square = np.s_[SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]
        pixels[square] = 235 if number >> bit & 1 else 20


READ_NUMBER = f"""(canvas) => {{
  const scale = canvas.width / canvas.dataset.imageWidth, half = {SIDE} / 2;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, {2 * SIDE}).data;
  let number = 0;
  for (let bit = {BITS} - 1; bit >= 0; --bit) {{
    const x = Math.round(scale * ((bit % {PER_ROW}) * {SIDE} + half));
    const y = Math.round(scale * (Math.floor(bit / {PER_ROW}) * {SIDE} + half));
    number = 2 * number + (pixels[4 * (y * canvas.width + x)] > 127 ? 1 : 0);
  }}
  return number;
}}"""
"""Source of a JavaScript function: reads the number that is drawn on the console's canvas."""
