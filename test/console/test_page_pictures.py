# SPDX-License-Identifier: Apache-2.0
"""Pictures of the console as video over WebRTC and as JPEG, in a real browser, without ROS."""

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
    """Shows numbered pictures, 20 per second, and counts what it encodes."""

    def __init__(self, hub):
        self.hub, self.shown = hub, 0
        self.pictures = PictureEncoder(hub, "/image", WIDTH, 80, 3_000_000)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        while not self.ended.wait(0.05):
            self.shown += 1
            draw_number(pixels, self.shown)
            facts = {"camera": "", "stamp": str(self.shown), "frame_id": "camera"}
            size = {"width": WIDTH, "height": HEIGHT, "boxes": []}
            self.pictures.show(pixels, {**facts, **size})
            ages = {"image_age": 0.0, "status_age": 0.0}
            self.hub.offer_state("health", "", ages)


@pytest.fixture
def serve():
    """Starts a console on a source; the commands of viewers are kept."""
    started = []

    def start(webrtc):
        commands = []

        async def keep(command):
            commands.append(command)
            return {"success": True, "message": "done"}

        hub = Hub()
        server, source = ConsoleServer(hub, keep, port=0, webrtc=webrtc), Source(hub)
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
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while source.hub.wanted("/image").jpeg or source.hub.wanted("/image").video:
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    page.wait_for_function(f"({LOOK})().drawn > {first}")
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
