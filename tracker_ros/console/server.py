# SPDX-License-Identifier: Apache-2.0
"""The console's web server: a page, a web socket for pictures and commands, and who may use them.

A browser sends commands as JSON texts, each with a number by which it is answered::

    {"number": 7, "do": "select", "camera": "front", "stamp": "1700000000000000000",
     "box": [x, y, w, h], "append": false}

On loopback the page is open. On any other address everything needs the token, which is part of
the page's address. A web socket that another site's page opens is refused.

Where others reach the page and aiortc is installed, pictures go as video over WebRTC; the web
socket then carries what its connections need, and what is known of each picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from tracker_ros.console.hub import Hub, TooManyViewersError, Viewer

if TYPE_CHECKING:
    from tracker_ros.console.webrtc import ViewerVideo

STATIC = Path(__file__).parent / "static"
MAX_MESSAGE_BYTES = 16_384
MAX_CONNECTIONS = 64
MAX_COMMANDS = 64
REFUSED, BUSY, TOO_BIG = 1008, 1013, 1009
_STOP_S = 2.0

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
_LOG = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach a host's address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ConsoleServer:
    """Serves the console in a thread of its own.

    `command` is called in the event loop with what a browser sent, and returns what that is
    answered. Port 0 takes a free one. The token is what the page's address must contain; an empty
    one is made unless `host` is loopback. With `webrtc` pictures may go as video.

    Raises ImportError if `webrtc` is wanted and aiortc not installed, OSError if the address
    cannot be listened on.
    """

    def __init__(
        self,
        hub: Hub,
        command: Command,
        host: str = "127.0.0.1",
        port: int = 8060,
        token: str = "",
        *,
        webrtc: bool = False,
    ) -> None:
        self._open_video: Callable[[Viewer, str], ViewerVideo] | None = None
        if webrtc:
            from tracker_ros.console.webrtc import ViewerVideo

            self._open_video = ViewerVideo
        self._hub = hub
        self._command = command
        self._commands: set[asyncio.Task[None]] = set()
        self._token = token or ("" if is_loopback(host) else secrets.token_urlsafe(16))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()  # from now on browsers wait instead of being refused
        except OSError:
            self._socket.close()
            raise
        shown = f"[{host}]" if ":" in host else host
        query = f"/?token={self._token}" if self._token else "/"
        self.address = f"http://{shown}:{self._socket.getsockname()[1]}{query}"
        routes = [
            Route("/", self._page),
            Mount("/static", StaticFiles(directory=STATIC)),
            WebSocketRoute("/socket", self._talk),
        ]
        application = Starlette(routes=routes, lifespan=self._lifespan)
        config = uvicorn.Config(
            application,
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # JPEG does not get smaller
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
            log_config=None,
            access_log=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End the server and its thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    @contextlib.asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        self._hub.attach(asyncio.get_running_loop())
        yield

    def _may_enter(self, connection: HTTPConnection) -> bool:
        """Return whether the request has the token, if one is needed."""
        given = connection.query_params.get("token", "")
        return not self._token or hmac.compare_digest(given.encode(), self._token.encode())

    async def _page(self, request: Request) -> Response:
        if not self._may_enter(request):
            return PlainTextResponse(
                "the token is missing or wrong: use the address that the console logged\n", 403
            )
        policy = "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
        headers = {
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return FileResponse(STATIC / "index.html", headers=headers)

    async def _talk(self, socket: WebSocket) -> None:
        """Serve one browser until it leaves."""
        origin, host = socket.headers.get("origin"), socket.headers.get("host")
        if not self._may_enter(socket) or (origin and urlsplit(origin).netloc != host):
            await socket.close(REFUSED)
            return
        await socket.accept()
        try:
            viewer = self._hub.enter()
        except TooManyViewersError as error:
            await socket.close(BUSY, str(error))
            return
        sending = asyncio.create_task(self._send(socket, viewer))
        address = socket.client.host if socket.client else ""
        video = self._open_video(viewer, address) if self._open_video else None
        greeting = {"kind": "server", "webrtc": video is not None}
        viewer.states["server"] = greeting
        viewer.wake.set()
        try:
            while True:
                await self._receive(viewer, video, await socket.receive_text())
        except (WebSocketDisconnect, KeyError, RuntimeError):
            pass  # it has left, or sent bytes
        finally:
            self._hub.leave(viewer)
            sending.cancel()
            if video is not None:
                await video.close()

    async def _send(self, socket: WebSocket, viewer: Viewer) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                message = await viewer.next_message()
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                else:
                    await socket.send_text(message)

    async def _receive(self, viewer: Viewer, video: ViewerVideo | None, text: str) -> None:
        """Carry out what a browser asks for and queue the answer."""
        try:
            request = json.loads(text)
            if not isinstance(request, dict):
                raise ValueError(f"expected an object, got {type(request).__name__}")
        except ValueError as error:
            _LOG.warning("the console received something that is not a command: %s", error)
            return
        if request.get("do") == "acknowledge":
            viewer.acknowledge()
            return
        if request.get("do") == "look":
            viewer.looking = bool(request.get("on"))
            for track in viewer.tracks.values():
                track.needs_key = track.asks
            self._hub.count()
            return
        if len(self._commands) >= MAX_COMMANDS:
            busy = {"success": False, "message": "too many commands are waiting: ask again"}
            viewer.answers.append({"kind": "answer", "number": request.get("number"), **busy})
            viewer.wake.set()
            return
        task = asyncio.get_running_loop().create_task(self._answer(viewer, video, request))
        self._commands.add(task)  # the loop itself does not keep tasks alive
        task.add_done_callback(self._commands.discard)

    async def _answer(
        self, viewer: Viewer, video: ViewerVideo | None, request: dict[str, Any]
    ) -> None:
        try:
            if video is not None and request.get("do") == "video":
                answer = await video.carry_out(request)
            else:
                answer = await self._command(request)
        except (KeyError, TypeError, ValueError) as error:
            answer = {"success": False, "message": f"the command cannot be used: {error!r}"}
        viewer.answers.append({"kind": "answer", "number": request.get("number"), **answer})
        viewer.wake.set()
