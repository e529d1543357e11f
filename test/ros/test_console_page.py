# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser beside a real tracker: mouse, keyboard, and a lost camera."""

from __future__ import annotations

import pytest

from tools.harness.browser import chromium

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    with chromium() as started:
        yield started


@pytest.fixture
def start_console(probe, run_program):
    """Starts consoles beside the shared tracker; they end without a complaint."""
    started = []

    def start(port=0):
        options = ["-p", f"port:={port}", "-p", "cameras:=/shared", "-p", "max_rate:=200.0"]
        started.append(run_program("console", "--ros-args", *options))
        probe.until(lambda: "in a browser" in started[-1].output, "the console")
        return started[-1]

    yield start
    for process in started:
        assert process.stop() == 0
        assert "Traceback" not in process.output


@pytest.fixture
def console(start_console):
    """A console, and the address of its page."""
    process = start_console()
    return process, process.output.partition("open ")[2].split()[0]


class Page:
    """The console's page, and the camera that it shows."""

    def __init__(self, page, probe):
        page.set_default_timeout(PATIENCE_MS)
        self.page, self.probe = page, probe
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def show(self, badge, frames=200):
        """Show frames until the camera's badge has this text."""
        wanted = self.page.locator(".badge.state", has_text=badge)
        for _ in range(frames):
            self.probe.show()
            if wanted.count():
                return
        pytest.fail(f"the badge never said {badge}; log: {self.log()}")

    def log(self):
        return self.page.locator("#log").inner_text()

    def drag_box(self):
        """Drag a box around the disc on the picture that is shown."""
        view = self.page.locator(".view").bounding_box()
        scale = view["width"] / self.probe.scene.width
        x, y, w, h = (scale * value for value in self.probe.scene.box(self.probe.place))
        mouse = self.page.mouse
        mouse.move(view["x"] + x, view["y"] + y)
        mouse.down()
        mouse.move(view["x"] + x + w, view["y"] + y + h, steps=4)
        mouse.up()


@pytest.fixture(params=[(1100, 800), (390, 800)], ids=["desktop", "phone"])
def opened(request, browser, console, probe):
    """The page at two screen sizes."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(console[1])
    opened = Page(page, probe)
    opened.show("idle")
    yield opened
    page.close()
    assert opened.errors == []


def test_a_box_is_dragged_and_a_silent_camera_is_told(opened, probe):
    page = opened.page
    opened.drag_box()
    opened.show("tracking")
    assert page.locator("#targets li").count() == 1
    page.wait_for_selector("#log .info:has-text('following target')")
    target = opened.probe.follow()
    assert probe.follows(target)
    page.wait_for_selector(".notice:has-text('camera is silent')")
    page.wait_for_selector(".camera.stale")
    opened.show("tracking")
    assert page.locator(".camera.stale").count() == 0
    page.click("#targets button")
    opened.show("idle")
    width = page.evaluate_handle("document.documentElement").get_property("scrollWidth")
    assert width.json_value() <= page.viewport_size["width"], "nothing is cut off"


def test_the_keyboard_is_enough(opened):
    page = opened.page
    page.focus(".view")
    for key in ("ArrowRight", "ArrowUp", "+", "-", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#log li:has-text('following target')")
    page.keyboard.press("p")
    page.wait_for_selector("#log li:has-text('paused')")
    page.keyboard.press("p")
    page.wait_for_selector("#log li:has-text('enabled')")
    page.keyboard.press("Delete")
    page.wait_for_selector("#log li:has-text('removed')")
    page.keyboard.press("c")
    page.wait_for_selector("#log li:has-text('cleared')")


def test_the_page_connects_again_by_itself(opened, console, start_console):
    process, address = console
    process.stop()
    opened.page.wait_for_selector("#link.bad")
    opened.page.wait_for_selector(".notice:has-text('no link')")
    start_console(address.rstrip("/").rpartition(":")[2])
    opened.page.wait_for_selector("#link.good")
    opened.show("idle")
