# SPDX-License-Identifier: Apache-2.0
"""Tests of the console's server: who is let in, what is bounded, and what viewers are sent."""

from __future__ import annotations

import asyncio
import json
import struct
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from tracker_ros.console.hub import MAX_VIEWERS, Hub, Picture
from tracker_ros.console.server import MAX_MESSAGE_BYTES, ConsoleServer, is_loopback

PATIENCE_S = 30.0


@pytest.fixture
def serve():
    """Starts servers; they answer each command with itself."""
    with ExitStack() as stack:

        def start(**options):
            async def echo(command):
                if command["do"] == "wait":
                    await asyncio.sleep(3600)
                return {"success": True, "message": command["do"]}

            hub = Hub()
            server = ConsoleServer(hub, echo, port=0, **options)
            server.start()
            stack.callback(server.stop)
            return hub, server

        yield start


def socket_address(server, query=""):
    head = server.address.partition("?")[0].replace("http:", "ws:")
    return f"{head}socket{query}"


def fetch(address):
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def receive(socket):
    data = socket.recv(timeout=PATIENCE_S)
    if isinstance(data, str):
        return json.loads(data)
    (size,) = struct.unpack(">I", data[:4])
    return {**json.loads(data[4 : 4 + size]), "jpeg": data[4 + size :]}


def ask(socket, **command):
    socket.send(json.dumps(command))
    while (message := receive(socket))["kind"] != "answer":
        pass
    return message


def test_page_and_its_files_are_served(serve):
    _, server = serve()
    status, page = fetch(server.address)
    assert status == 200
    assert "//" not in page.replace("<!doctype html>", ""), "nothing comes from other sites"
    for name in ("static/console.js", "static/console.css"):
        assert name in page
        assert fetch(server.address + name)[0] == 200
    assert fetch(server.address + "static/../hub.py")[0] == 404


def test_commands_are_answered_by_number(serve):
    _, server = serve()
    with connect(socket_address(server)) as socket:
        assert ask(socket, number=7, do="clear") == {
            "kind": "answer", "number": 7, "success": True, "message": "clear"
        }  # fmt: skip
        assert not ask(socket, number=8)["success"], "a command without 'do' is answered too"
        for nonsense in ("", "{", "[1]", '"text"'):
            socket.send(nonsense)
        assert ask(socket, number=9, do="clear")["number"] == 9


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_is_recognised(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "robot"])
def test_other_addresses_need_a_token(host, serve):
    assert not is_loopback(host)


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=secre"])
def test_a_wrong_token_is_refused(serve, query):
    _, server = serve(token="secret")
    assert server.address.endswith("/?token=secret")
    assert fetch(server.address)[0] == 200
    assert fetch(server.address.partition("?")[0] + query)[0] == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(socket_address(server, query))
    assert refused.value.response.status_code == 403
    with connect(socket_address(server, "?token=secret")) as socket:
        assert ask(socket, number=1, do="clear")["success"]


def test_a_token_is_made_where_others_can_reach_the_page(serve):
    _, server = serve(host="0.0.0.0")
    assert len(server.address.partition("?token=")[2]) >= 16


def test_a_page_of_another_site_is_refused(serve):
    _, server = serve()
    with pytest.raises(InvalidStatus):
        connect(socket_address(server), origin="http://elsewhere.example")
    own = server.address.rstrip("/")
    with connect(socket_address(server), origin=own) as socket:
        assert ask(socket, number=1, do="clear")["success"]


def test_an_oversized_message_ends_its_connection_alone(serve):
    _, server = serve()
    with connect(socket_address(server)) as good:
        with connect(socket_address(server)) as bad, pytest.raises(ConnectionClosed):
            bad.send("x" * (MAX_MESSAGE_BYTES + 1))
            while True:
                receive(bad)
        assert ask(good, number=1, do="clear")["success"]


def test_of_200_connections_as_many_are_served_as_there_are_places(serve):
    _, server = serve()
    with ExitStack() as stack:
        first = stack.enter_context(connect(socket_address(server)))
        let_in = 1
        for _ in range(200):
            try:
                socket = stack.enter_context(connect(socket_address(server)))
                let_in += ask(socket, number=1, do="clear")["success"]
            except (WebSocketException, OSError, EOFError):
                continue
        assert let_in == MAX_VIEWERS
        assert ask(first, number=2, do="clear")["success"]
    with connect(socket_address(server)) as socket:
        assert ask(socket, number=3, do="clear")["success"], "places become free again"


def test_waiting_commands_are_bounded(serve):
    _, server = serve()
    with connect(socket_address(server)) as socket:
        for number in range(64):
            socket.send(json.dumps({"number": number, "do": "wait"}))
        assert not ask(socket, number=100, do="clear")["success"]


def test_a_viewer_that_comes_later_knows_the_states_and_lines(serve):
    hub, server = serve()
    with connect(socket_address(server)):  # the server runs: offers are taken
        hub.offer_state("targets", "front", {"targets": []})
        hub.offer_state("targets", "front", {"targets": [{"id": "1"}]})
        hub.offer_line({"text": "hello"})
        with connect(socket_address(server)) as late:
            messages = [receive(late), receive(late)]
    assert [m["kind"] for m in messages] == ["log", "targets"]
    assert messages[1]["targets"] == [{"id": "1"}]


def test_a_slow_viewer_gets_fewer_pictures_and_the_newest(serve):
    hub, server = serve()
    with connect(socket_address(server)) as socket:
        ask(socket, number=0, do="clear")

        def show(number):
            hub.offer_picture(Picture("front/image", b"jpeg", {"stamp": str(number)}))

        for number in range(2):
            show(number)
            assert receive(socket)["stamp"] == str(number)
        for number in range(2, 50):
            show(number)
        ask(socket, number=1, do="clear")  # all offers have been taken
        socket.send('{"do": "acknowledge"}')
        picture = receive(socket)
        assert picture["stamp"] == "49"
        assert picture["jpeg"] == b"jpeg"


def test_the_number_of_viewers_is_told():
    counts = []
    hub = Hub(counts.append)
    viewers = [hub.enter(), hub.enter()]
    for viewer in viewers:
        hub.leave(viewer)
    assert counts == [1, 2, 1, 0]


def test_an_address_in_use_is_an_error(serve):
    _, server = serve()
    port = int(server.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        ConsoleServer(Hub(), None, port=port)
