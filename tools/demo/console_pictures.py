# SPDX-License-Identifier: Apache-2.0
"""Take the pictures of the console in docs/media: a target is selected in a real browser.

dev/run python -m tools.demo.console_pictures --out docs/media
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tools.demo.run_demo import load_footage
from tools.harness.browser import chromium
from tools.harness.domain import private_domain
from tools.harness.program import Program, node_command
from tracker_ros.geometry import Box

SCREENS = {"console.jpg": (1100, 720), "console_phone.jpg": (390, 760)}
PATIENCE_MS = 120_000
WATCHED_MS = 6_000


def drag(page: Page, box: Box) -> None:
    """Drag a box, x, y, w, h in pixels of the image, on the page's picture."""
    view = page.locator(".view").bounding_box()
    assert view is not None
    width = float(page.get_attribute(".view", "data-image-width") or "nan")
    scale = view["width"] / width
    x, y, w, h = (scale * value for value in box)
    page.mouse.move(view["x"] + x, view["y"] + y)
    page.mouse.down()
    page.mouse.move(view["x"] + x + w, view["y"] + y + h, steps=4)
    page.mouse.up()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"))
    out = parser.parse_args().out
    footage, _ = load_footage(synthetic=False)
    plain = ["-p", "backend:=torch", "-p", "build_engine:=false"]
    video = ["-p", f"source:={footage.source}", "-p", f"rate:={footage.rate_hz}"]
    with (
        private_domain(),
        tempfile.TemporaryDirectory() as folder,
        Program(node_command("track", "--ros-args", *plain)),
        Program(
            node_command("console", "--ros-args", "-p", "port:=0"), Path(folder) / "console.log"
        ) as console,
        chromium() as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        while "in a browser" not in console.output:
            page.wait_for_timeout(200)
        page.goto(console.output.partition("open ")[2].split()[0])
        for name, (width, height) in SCREENS.items():
            page.set_viewport_size({"width": width, "height": height})
            log = Path(folder) / "video.log"
            command = node_command("video", "--ros-args", *video, "-p", "wait_for_target:=true")
            with Program(command, log):
                page.wait_for_selector(".badge.state:text-is('idle')")
                drag(page, footage.first_box)
                page.wait_for_selector(".badge.state:text-is('tracking')")
                page.wait_for_timeout(WATCHED_MS)
                page.screenshot(path=out / name, type="jpeg", quality=85)
            page.keyboard.press("c")


if __name__ == "__main__":
    main()
