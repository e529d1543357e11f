#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# pymavlink 2.4.50.
#
# A packet whose length byte was damaged takes the good packets that follow with it: the parser waits
# for the bytes that the length promises, finds the checksum wrong, and drops all of them instead of
# looking for the next packet in them. Over UDP, where each datagram holds whole packets, one damaged
# datagram so destroys several good ones (robust_parsing on).
#
# Expected: the good packets, and one BAD_DATA.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet pymavlink==2.4.50
"$work/venv/bin/python" - <<'PY'
from pymavlink.dialects.v20 import common

sender = common.MAVLink(None, srcSystem=255, srcComponent=190)


def heartbeat():
    sender.seq += 1
    return common.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3).pack(sender)


damaged = bytearray(heartbeat())
damaged[1] = 180  # instead of 9 bytes of payload
datagrams = [bytes(damaged)] + [heartbeat() for _ in range(10)]
for name, parsers in (
    ("one parser", [common.MAVLink(None)] * len(datagrams)),
    ("one for each datagram", [common.MAVLink(None) for _ in datagrams]),
):
    received = []
    for parser, datagram in zip(parsers, datagrams):
        parser.robust_parsing = True
        received += parser.parse_buffer(datagram) or []
    good = sum(message.get_type() == "HEARTBEAT" for message in received)
    print(f"{name}: {good} of 10 good heartbeats")
    assert good < 5 if name == "one parser" else good == 10
PY
echo "unchanged"
