# SPDX-License-Identifier: Apache-2.0
"""The harness: ROS domains that are apart, and programs that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.harness.domain import private_domain
from tools.harness.program import Program

TAKE_A_DOMAIN = """
from tools.harness.domain import private_domain
with private_domain() as domain:
    print(domain, flush=True)
    input()
"""


def test_a_domain_is_reserved_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    with private_domain() as one:
        with private_domain() as other:
            assert one != other
            assert os.environ["ROS_DOMAIN_ID"] == str(other)
        assert os.environ["ROS_DOMAIN_ID"] == str(one)
        assert 1 <= one <= 99
    assert os.environ["ROS_DOMAIN_ID"] == "0"


def test_processes_that_start_together_take_different_domains() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", TAKE_A_DOMAIN], **pipes) for _ in range(8)]
    taken = [process.stdout.readline().strip() for process in started]
    assert len({int(domain) for domain in taken}) == len(started)
    for process in started:
        process.communicate("\n", timeout=60)


def test_a_program_keeps_its_output_and_status(tmp_path: Path) -> None:
    code = "import os; print(os.environ['WORD']); raise SystemExit(3)"
    with Program([sys.executable, "-c", code], tmp_path / "log", {"WORD": "spoken"}) as program:
        assert program.wait() == 3
    assert (program.alive, program.status, program.output) == (False, 3, "spoken\n")
    assert program.last_line.startswith("spoken ")


@pytest.mark.parametrize(
    ("ignored", "ended_by"),
    [((), signal.SIGINT), (("SIGINT",), signal.SIGTERM), (("SIGINT", "SIGTERM"), signal.SIGKILL)],
)
def test_a_program_is_ended_by_the_mildest_signal_that_works(
    ignored: tuple[str, ...], ended_by: signal.Signals, tmp_path: Path
) -> None:
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        f"for name in {ignored}: signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    program = Program([sys.executable, "-c", code], tmp_path / "log", group=True)
    while "ready" not in program.output:
        assert program.alive, program.output
    assert program.stop(patience_s=0.5) == -ended_by
