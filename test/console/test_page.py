# SPDX-License-Identifier: Apache-2.0
"""The console's page in a real browser, without ROS: which picture it shows, what it sends."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tools.harness.browser import READ_NUMBER, chromium, draw_number
from tracker_ros.console.encoders import PictureEncoder
from tracker_ros.console.hub import Hub
from tracker_ros.console.server import ConsoleServer

WIDTH, HEIGHT = 640, 480
BOXES = [{"id": "1", "box": [100, 200, 80, 100]}, {"id": "2", "box": [560, 430, 10, 8]}]
STATUS = {"label": "", "state": "TRACKING", "score": 0.9, "seconds_since_seen": 0, "latency": 0.02}
TARGETS = [{"id": "1", **STATUS, "azimuth": -0.1, "elevation": 0.05}, {"id": "2", **STATUS}]
PATIENCE_MS = 60_000
LOOK = f"""() => {{
  const view = document.querySelector(".view"), {{ stamp, kind }} = view.dataset;
  const read = {READ_NUMBER};
  return {{ stamp, kind, drawn: read(view) }};
}}"""


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    with chromium() as started:
        yield started


class Source:
    """Shows numbered pictures of some cameras, 20 per second, with two targets on each."""

    def __init__(self, hub, cameras):
        self.hub, self.shown = hub, 0
        self.pictures = {
            name: PictureEncoder(hub, f"{name}/image", WIDTH, 80, 3_000_000) for name in cameras
        }
        self.silent = set()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        while not self.ended.wait(0.05):
            self.shown += 1
            draw_number(pixels, self.shown)
            for name, pictures in self.pictures.items():
                age = 9.0 if name in self.silent else 0.0
                ages = {"image_age": age, "status_age": 0.0}
                self.hub.offer_state("health", name, ages)
                frames = dict.fromkeys(("received", "tracked", "dropped"), self.shown)
                self.hub.offer_state("targets", name, {"targets": TARGETS, "frames": frames})
                if not age:
                    facts = {"camera": name, "stamp": str(self.shown), "frame_id": name}
                    size = {"width": WIDTH, "height": HEIGHT, "boxes": BOXES}
                    pictures.show(pixels, {**facts, **size})


@pytest.fixture
def serve():
    """Starts a console on a source; the commands of viewers are kept."""
    started = []

    def start(webrtc=False, cameras=("",)):
        commands = []

        async def keep(command):
            commands.append(command)
            if command["do"] == "enable":
                hub.offer_state("paused", command["camera"], {"on": not command["on"]})
            return {"success": True, "message": "done"}

        hub = Hub()
        server, source = ConsoleServer(hub, keep, port=0, webrtc=webrtc), Source(hub, cameras)
        server.start()
        source.thread.start()
        started.append((server, source))
        return server, source, commands

    yield start
    for server, source in started:
        source.ended.set()
        source.thread.join()
        server.stop()


def open_page(browser, server):
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(server.address)
    return page


@pytest.mark.parametrize("kind", ["jpeg", "webrtc"])
def test_the_page_knows_which_picture_it_shows(browser, serve, kind):
    server, source, commands = serve(webrtc=kind == "webrtc")
    page = open_page(browser, server)
    page.wait_for_selector(f".view[data-kind={kind}]")
    seen = []
    for _ in range(40):
        seen.append(page.evaluate(LOOK))
        page.wait_for_timeout(30)
    assert {look["kind"] for look in seen} == {kind}
    assert [look["drawn"] for look in seen] == [int(look["stamp"]) for look in seen]
    assert len({look["stamp"] for look in seen}) > 5

    view = page.locator(".view").bounding_box()
    page.mouse.move(view["x"] + 0.5 * view["width"], view["y"] + 0.5 * view["height"])
    page.mouse.down()
    under_the_finger = page.evaluate(LOOK)["drawn"]
    before = source.shown
    while source.shown < before + 10:  # the picture stands still; the camera does not
        time.sleep(0.01)
    page.mouse.move(view["x"] + 0.7 * view["width"], view["y"] + 0.8 * view["height"])
    assert page.evaluate(LOOK)["drawn"] == under_the_finger
    page.mouse.up()
    page.wait_for_selector("#log li:has-text('select: done')")
    (select,) = [command for command in commands if command["do"] == "select"]
    assert int(select["stamp"]) == under_the_finger
    assert select["box"] == pytest.approx([320, 240, 128, 144], abs=2)
    page.close()


def test_pictures_are_encoded_in_the_kinds_that_are_looked_at(browser, serve):
    server, source, _ = serve(webrtc=True)
    assert not source.hub.wanted("/image").jpeg, "nobody looks"
    page = open_page(browser, server)
    page.wait_for_selector(".view[data-kind=webrtc]")
    wanted = source.hub.wanted("/image")
    assert wanted.video
    assert not wanted.jpeg
    other = browser.new_page()
    other.add_init_script("delete window.RTCPeerConnection")
    other.goto(server.address)
    other.wait_for_selector(".view[data-kind=jpeg]")
    wanted = source.hub.wanted("/image")
    assert wanted.video
    assert wanted.jpeg
    page.close()
    other.close()
    wait_for(lambda: not (source.hub.wanted("/image").jpeg or source.hub.wanted("/image").video))


def test_jpeg_takes_over_where_webrtc_cannot_pass(browser, serve):
    server, _, _ = serve(webrtc=True)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    # As behind a tunnel: signalling passes, media does not.
    page.add_init_script("""
      const set = RTCPeerConnection.prototype.setRemoteDescription;
      RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
        return set.call(this, { type, sdp: sdp.replace(/a=candidate.*\\r\\n/g, "") });
      };
      const peer = RTCPeerConnection.prototype;
      const local = Object.getOwnPropertyDescriptor(peer, "localDescription");
      Object.defineProperty(peer, "localDescription", { get() {
        const { type, sdp } = local.get.call(this);
        return { type, sdp: sdp.replace(/ \\d+ typ host/g, " 9 typ host") };
      } });
    """)
    page.goto(server.address)
    page.wait_for_selector(".view[data-kind=jpeg]")
    first = page.evaluate(LOOK)["drawn"]
    page.wait_for_selector("#log li:has-text('JPEG instead of WebRTC')")
    page.wait_for_selector(f".view:not([data-stamp='{first}'])")
    assert page.evaluate(LOOK)["kind"] == "jpeg"
    page.close()


def test_an_offer_that_cannot_be_read_is_refused(browser, serve):
    server, source, _ = serve(webrtc=True)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script("""
      Object.defineProperty(RTCPeerConnection.prototype, "localDescription",
        { get: () => ({ type: "offer", sdp: "nonsense" }) });
    """)
    page.goto(server.address)
    page.wait_for_selector("#log li:has-text('JPEG instead of WebRTC')")
    page.wait_for_selector(".view[data-kind=jpeg]")
    assert not source.hub.wanted("/image").video
    page.close()


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def place_of(page, x, y, camera=0):
    """Where a pixel of the camera's image is on the page."""
    view = page.locator(".view").nth(camera).bounding_box()
    return view["x"] + x * view["width"] / WIDTH, view["y"] + y * view["height"] / HEIGHT


def test_what_is_touched_and_pressed_becomes_commands(browser, serve):
    server, _, commands = serve()
    page = open_page(browser, server)
    page.wait_for_selector(".view[data-stamp]")

    def commanded():
        wait_for(lambda: commands)
        command = commands.pop()
        assert not commands
        return {key: value for key, value in command.items() if key not in ("number", "camera")}

    page.mouse.click(*place_of(page, 140, 250))
    assert commanded() == {"do": "remove", "id": "1"}
    page.mouse.click(*place_of(page, 556, 425))  # beside a box that is smaller than a finger
    assert commanded() == {"do": "remove", "id": "2"}
    page.mouse.click(*place_of(page, 320, 100))
    page.keyboard.press("a")
    page.mouse.move(*place_of(page, 300, 300))
    page.mouse.down()
    page.mouse.move(*place_of(page, 340, 360))
    page.mouse.up()
    assert commanded()["append"] is True
    page.fill("#model", "grm_tiny")
    page.press("#model", "Enter")
    assert commanded() == {"do": "model", "model": "grm_tiny"}
    page.click("#pause")
    assert commanded() == {"do": "enable", "on": False}
    page.wait_for_selector("#pause[aria-pressed=true]")
    page.click("#pause")
    assert commanded() == {"do": "enable", "on": True}
    remove = page.locator("#targets button").nth(1)
    remove.focus()
    page.wait_for_timeout(500)  # the list is renewed many times
    page.keyboard.press("Enter")
    assert commanded() == {"do": "remove", "id": "2"}
    assert "5.7° left" in page.locator("#targets").inner_text()
    page.close()


def test_of_several_cameras_the_one_that_was_touched_is_meant(browser, serve):
    server, source, commands = serve(cameras=("front", "rear"))
    page = open_page(browser, server)
    page.wait_for_selector(":nth-match(.view[data-stamp], 2)")
    page.keyboard.press("c")
    wait_for(lambda: commands)
    page.mouse.click(*place_of(page, 320, 100, camera=1))
    page.keyboard.press("c")
    wait_for(lambda: len(commands) == 2)
    assert [command["camera"] for command in commands] == ["front", "rear"]
    source.silent = {"rear"}
    page.wait_for_selector(".camera.stale")
    names = page.locator(".camera.stale .name")
    assert names.all_inner_texts() == ["rear"]
    page.wait_for_selector(".notice:text-matches('[1-9] s ago')")
    page.close()
