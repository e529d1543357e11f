# SPDX-License-Identifier: Apache-2.0
"""Measure the console: from a picture's stamp to the screen, and what viewers cost.

    dev/run python -m tools.benchmarks.console_latency
    dev/run python -m tools.benchmarks.console_latency --encoders    # encoding alone

A camera draws the time of each image into it. In Chromium, a script reads the number that is on
the canvas whenever the screen is renewed: its age then is the latency from glass to glass, but for
the camera's own exposure and the screen. The number must be the stamp that the page would send
with a selection. Camera, tracker, console and browser share the machine.

Of the console's processor time with one viewer, the encoder's part is what encoding takes for the
same pictures in a process that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rclpy
from playwright.sync_api import Browser, Page

from tools.benchmarks.latency_nodes import scenes
from tools.benchmarks.rows import Row, publish
from tools.harness.browser import READ_NUMBER, chromium
from tools.harness.domain import private_domain
from tools.harness.operator import Operator
from tools.harness.program import Program, node_command, python_command
from tracker_ros.console.encoders import VideoEncoder, encode_jpeg
from tracker_ros.nodes.messages import rgb_from_image

COLUMNS = ("transport", "size", "pictures", "wrong_stamps", "p50_ms", "p95_ms", "pictures_per_s",
           "idle_percent", "viewer_percent", "encoder_percent", "beyond_percent",
           "second_viewer_percent")  # fmt: skip
WATCH = f"""() => {{
  const view = document.querySelector(".view"), read = {READ_NUMBER};
  window.seen = [];
  let last = "";
  const look = () => {{
    if (view.dataset.stamp !== last) {{
      last = view.dataset.stamp;
      const drawn = read(view), now = Date.now();
      window.seen.push([now - drawn, Number(BigInt(last) / 1000000n) - drawn]);
    }}
    requestAnimationFrame(look);
  }};
  requestAnimationFrame(look);
}}"""


def encoder_cost(transport: str, width: int, height: int) -> tuple[float, float]:
    """Return the milliseconds of processor time and the kilobytes that a picture takes."""
    pictures = [rgb_from_image(image) for image, _ in scenes(width, height)]
    pictures = (pictures + pictures[-2:0:-1]) * 4
    video, size = VideoEncoder(3_000_000), 0
    before = time.process_time()
    for index, pixels in enumerate(pictures):
        if transport == "jpeg":
            size += len(encode_jpeg(pixels, 80))
        else:
            size += len(video.encode(pixels, 3000 * index, key=False).data)
    spent = time.process_time() - before
    return 1e3 * spent / len(pictures), size / 1e3 / len(pictures)


def percent_of(process: psutil.Process, seconds: float, page: Page | None = None) -> float:
    """Return the processor time of a process in the next seconds, percent of one core."""
    process.cpu_percent()
    if page is None:
        time.sleep(seconds)
    else:
        page.wait_for_timeout(1e3 * seconds)
    return float(process.cpu_percent())


def open_page(browser: Browser, address: str, transport: str) -> Page:
    """Open the console's page and wait for pictures of this kind."""
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto(address)
    page.wait_for_selector(f".view[data-kind={transport}]", timeout=60_000)
    return page


def measure(transport: str, run: argparse.Namespace) -> Row:
    """Return the row of one transport."""
    width, height = map(int, run.size.split("x"))
    options = ["-p", "port:=0", "-p", f"transport:={transport}", "-p", "max_rate:=240.0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Program(
            python_command(
                "tools.benchmarks.latency_nodes", "camera", "--numbered", width, height, run.rate
            )
        ),
        Program(node_command("track", "--ros-args", "--log-level", "warn")) as track,
        Program(node_command("console", "--ros-args", *options), Path(folder) / "log") as console,
        chromium() as browser,
    ):
        with Operator("listener", alive=lambda: track.alive and console.alive) as operator:
            while not operator.select(scenes(width, height, 1)[0][1]).success:
                operator.spin(0.2)
        while "open " not in console.output:
            time.sleep(0.1)
        process = psutil.Process(console.pid)
        idle = percent_of(process, run.seconds / 2)
        page = open_page(browser, console.output.partition("open ")[2].split()[0], transport)
        page.evaluate(WATCH)
        page.wait_for_timeout(2_000)
        page.evaluate("seen.length = 0")
        viewer = percent_of(process, run.seconds, page)
        seen = np.array(page.evaluate("seen"))
        second = open_page(browser, page.url, transport)
        both = percent_of(process, run.seconds / 2, page)
        second.close()
    rate = len(seen) / run.seconds
    encoder = encoder_cost(transport, width, height)[0] * rate / 10
    p50, p95 = np.percentile(seen[:, 0], (50, 95)).tolist()
    return {
        "transport": transport, "size": run.size, "pictures": len(seen),
        "wrong_stamps": int((seen[:, 1] != 0).sum()), "p50_ms": p50, "p95_ms": p95,
        "pictures_per_s": rate, "idle_percent": idle, "viewer_percent": viewer,
        "encoder_percent": encoder, "beyond_percent": viewer - idle - encoder,
        "second_viewer_percent": both - viewer,
    }  # fmt: skip


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="640x480", help="of the images (%(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="images per second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--transports", nargs="+", default=["jpeg", "webrtc"])
    parser.add_argument("--out", type=Path, default=Path("out/console_latency.json"))
    parser.add_argument("--encoders", action="store_true", help="measure encoding alone")
    run = parser.parse_args()
    if run.encoders:
        width, height = map(int, run.size.split("x"))
        costs = [(name, *encoder_cost(name, width, height)) for name in run.transports]
        columns = ("transport", "ms_per_picture", "kB_per_picture")
        publish([dict(zip(columns, cost, strict=True)) for cost in costs], columns, 2, None)
        return
    with private_domain():
        rclpy.init()
        rows = [measure(transport, run) for transport in run.transports]
    publish(rows, COLUMNS, 2, run.out)


if __name__ == "__main__":
    main()
