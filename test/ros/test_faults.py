# SPDX-License-Identifier: Apache-2.0
"""Models that fail, hang, or end their thread, in the real node: noticed, told, survived."""

from __future__ import annotations

import os
import sys

import pytest
from conftest import ON_TORCH
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition

from tools.harness.program import Program, python_command
from tracker_interfaces.msg import TargetStatus

HANG_S = 5.0  # longer than a busy machine takes for an image


@pytest.fixture
def start_breakable(tmp_path, make_probe):
    """Starts a node whose model breaks on command; returns program, probe and the command."""
    programs = []

    def start(namespace, *arguments):
        command = tmp_path / "command"
        command.write_text("")
        options = ["-r", f"__ns:=/{namespace}", "-p", "diagnostics_rate:=10.0", *ON_TORCH]
        programs.append(
            Program(
                python_command("tools.harness.breakable", "--ros-args", *options, *arguments),
                tmp_path / "track.log",
                {"TRACKER_BREAK": str(command), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )
        probe = make_probe(f"/{namespace}")
        probe.connect()
        return programs[-1], probe, command

    yield start
    for program in programs:
        program.stop()


def wait_for_level(probe, task, level):
    """Wait for a level of a diagnosis; images go on meanwhile."""
    place = probe.place

    def reached():
        probe.place = place
        probe.publish_scene()
        return probe.level_of(task)[0] == level

    return probe.until(reached, f"{task} at level {level!r}")


def test_a_model_that_fails_or_returns_nonsense_is_told_and_recovers(start_breakable):
    _, probe, command = start_breakable("nonsense")
    target_id = probe.start_following()
    for fault in ("raise", "nan", "score"):
        command.write_text(fault)
        probe.show()
        probe.logs.clear()
        probe.targets.clear()
        for _ in range(20):
            status = probe.show()
        assert status.target_id == target_id
        assert probe.targets == [], "no box of a model that fails"
        wait_for_level(probe, "model", DiagnosticStatus.ERROR)
        assert probe.level_of("images")[0] == DiagnosticStatus.OK, "the image is not to blame"
        assert sum(log.level >= log.ERROR for log in probe.logs) <= 1, "not for every frame"
        command.write_text("")
        wait_for_level(probe, "model", DiagnosticStatus.OK)
        assert probe.follow(2).id == target_id


@pytest.mark.parametrize("fault", ["exit", "hang"])
def test_a_worker_that_is_gone_is_noticed_and_replaced(start_breakable, fault):
    settings = ("-p", "exit_on_fault:=false", "-p", f"hang_timeout:={HANG_S}")
    program, probe, command = start_breakable("gone", *settings)
    target_id = probe.start_following()
    probe.arrays.clear()
    command.write_text(fault)
    probe.publish_scene()
    for _ in range(100):  # the first ones may be faster than the image
        answer = probe.select(probe.scene.box(probe.place), append=True)
        if not answer.success and answer.code != answer.TOO_MANY_TARGETS:
            break
    assert answer.code in (answer.MODEL_FAILED, answer.INTERRUPTED), "the one that waits"
    wait_for_level(probe, "model", DiagnosticStatus.ERROR)
    refusal = probe.select(probe.scene.box(probe.place))
    assert refusal.code == refusal.MODEL_FAILED
    assert probe.enable(True).success is False
    last = probe.until(
        lambda: probe.statuses[-1].state == TargetStatus.IDLE and probe.arrays[-1],
        "a last status",
    )
    assert (target_id, TargetStatus.IDLE) in [(s.target_id, s.state) for s in last.statuses]
    command.write_text("")
    assert program.alive
    assert probe.change(Transition.TRANSITION_DEACTIVATE)
    assert probe.change(Transition.TRANSITION_CLEANUP)
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    probe.until(lambda: probe.change(Transition.TRANSITION_ACTIVATE), "a new worker")
    assert probe.start_following() != target_id
    assert probe.follow(2)
    assert program.stop() == 0


@pytest.mark.parametrize("fault", ["exit", "hang"])
def test_the_program_ends_so_that_it_can_be_started_again(start_breakable, fault):
    program, probe, command = start_breakable("ending", "-p", f"hang_timeout:={HANG_S}")
    probe.start_following()
    command.write_text(fault)
    probe.publish_scene()
    probe.until(lambda: not program.alive, "the end of the program")
    assert program.status == os.EX_SOFTWARE
    assert "Traceback" not in program.output
