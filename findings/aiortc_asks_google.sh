#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# aiortc 1.16.0.
#
# RTCPeerConnection() without a configuration sends a request to a server of Google
# (stun.l.google.com:19302) to learn its public address. Browsers, whose interface it copies, ask no
# server unless one is named. So a program that is to work without internet, or to tell nobody of
# its address, looks up and asks a stranger. RTCConfiguration(iceServers=[]) prevents it.
#
# Expected: no server, as in browsers (RTCConfiguration's iceServers defaults to an empty list).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet aiortc==1.16.0
cat > "$work/ask.py" <<'PY'
import asyncio
import socket

from aiortc import RTCConfiguration, RTCPeerConnection


async def names_asked(configuration):
    """Return the names that gathering candidates looks up."""
    asked, look_up = set(), socket.gethostbyname

    def note(host):
        asked.add(host)
        raise socket.gaierror("this script asks nobody")

    socket.gethostbyname = note
    peer = RTCPeerConnection(configuration)
    peer.addTransceiver("video", direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())
    await peer.close()
    socket.gethostbyname = look_up
    return sorted(asked)


async def main():
    usual = await names_asked(None)
    told = await names_asked(RTCConfiguration(iceServers=[]))
    print("without a configuration:", usual)
    print("with iceServers=[]:     ", told)
    assert usual == ["stun.l.google.com"], usual
    assert told == [], told


asyncio.run(main())
PY
"$work/venv/bin/python" "$work/ask.py"
echo "unchanged"
