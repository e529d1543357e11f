# SPDX-License-Identifier: Apache-2.0
"""Take the pictures of the console in docs/media: a target is selected in a real browser.

dev/run python -m tools.demo.console_pictures --out docs/media
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tools.demo.run_demo import load_footage
from tools.harness.domain import private_domain
from tools.harness.program import Program, node_command
from tracker_ros.geometry import Box

ROOT = Path(__file__).resolve().parents[2]
SCREENS = {"console.jpg": (1100, 720), "console_phone.jpg": (390, 760)}
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PATIENCE_MS = 120_000
WATCHED_MS = 6_000


def drag(page: Page, box: Box) -> None:
    """Drag a box, x, y, w, h in pixels of the image, on the page's picture."""
    view = page.locator(".view").bounding_box()
    width = page.evaluate_handle("document.querySelector('.view')").get_property("width")
    assert view is not None
    scale = view["width"] / width.json_value()
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
    browser = subprocess.run([ROOT / "dev/browser"], stdout=subprocess.PIPE, text=True, check=True)
    plain = ["-p", "backend:=torch", "-p", "build_engine:=false"]
    video = ["-p", f"source:={footage.source}", "-p", f"rate:={footage.rate_hz}"]
    with (
        private_domain(),
        tempfile.TemporaryDirectory() as folder,
        Program(node_command("track", "--ros-args", *plain)),
        Program(
            node_command("console", "--ros-args", "-p", "port:=0"), Path(folder) / "console.log"
        ) as console,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=browser.stdout.strip(), args=QUIET)
        page = chromium.new_page()
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
        chromium.close()


if __name__ == "__main__":
    main()
