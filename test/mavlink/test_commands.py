# SPDX-License-Identifier: Apache-2.0
"""Commands over a link that loses, doubles and reorders packets."""

from __future__ import annotations

import random

from tracker_ros.mavlink.commands import CommandResult
from tracker_ros.mavlink.dialect import load_dialect

d = load_dialect()
ACCEPTED, TEMPORARILY, DENIED, UNSUPPORTED, FAILED, IN_PROGRESS = CommandResult
STOP = d.MAV_CMD_CAMERA_STOP_TRACKING


def test_a_lost_acknowledgement_does_not_start_tracking_again(bench):
    assert bench.track(sequence=7) == [ACCEPTED]
    bench.wait(1.5)
    assert bench.track(sequence=9, confirmation=1) == [ACCEPTED]
    assert len(bench.tracker.boxes) == 1


def test_a_doubled_packet_counts_once(bench):
    assert bench.track(sequence=7) == [ACCEPTED]
    assert bench.track(sequence=7) == [ACCEPTED]
    assert len(bench.tracker.boxes) == 1


def test_the_same_rectangle_drawn_again_is_a_new_one(bench):
    bench.track(sequence=7)
    bench.track(sequence=8)
    assert len(bench.tracker.boxes) == 2


def test_a_resent_command_that_never_came_before_is_executed(bench):
    assert bench.track(sequence=7, confirmation=2) == [ACCEPTED]
    assert len(bench.tracker.boxes) == 1


def test_a_copy_that_was_overtaken_by_its_own_repetition_counts_once(bench):
    assert bench.track(sequence=9, confirmation=1) == [ACCEPTED]
    assert bench.track(sequence=8) == [ACCEPTED]
    assert len(bench.tracker.boxes) == 1


def test_a_denial_is_repeated_too(bench):
    assert bench.track(0.5, 0.5, 0.1, 0.1, sequence=1) == [DENIED]
    assert bench.track(0.5, 0.5, 0.1, 0.1, sequence=1) == [DENIED]
    assert len(bench.complaints) == 1


def test_a_command_that_was_overtaken_is_left_out(bench):
    assert bench.command(STOP, sequence=3) == [ACCEPTED]
    assert bench.track(sequence=2) == [TEMPORARILY]
    assert bench.tracker.boxes == []
    assert bench.track(sequence=4) == [ACCEPTED]
    bench.wait(3.0)
    assert bench.track(sequence=1) == [ACCEPTED], "the station may have started anew"


def test_the_sequence_may_wrap_around(bench):
    assert bench.command(STOP, sequence=255) == [ACCEPTED]
    assert bench.track(sequence=0) == [ACCEPTED]
    assert bench.track(0.1, 0.1, 0.2, 0.2, sequence=254) == [TEMPORARILY]


def test_stations_do_not_overtake_each_other(bench):
    assert bench.command(STOP, sequence=90) == [ACCEPTED]
    assert bench.track(sequence=2, system=254) == [ACCEPTED]
    assert bench.track(sequence=2, peer=bench.second) == [ACCEPTED]


def test_a_long_selection_reports_progress(bench):
    bench.tracker.hold = True
    assert bench.track(sequence=1) == []
    bench.wait(1.2)
    acks = bench.first.take("COMMAND_ACK")
    assert [ack.result for ack in acks] == [IN_PROGRESS] * 2
    assert {ack.progress for ack in acks} == {255}
    assert bench.track(sequence=2, confirmation=1) == [IN_PROGRESS]
    assert bench.track(sequence=3, peer=bench.second) == [TEMPORARILY]
    assert bench.track(0.1, 0.1, 0.2, 0.2, sequence=4) == [TEMPORARILY]
    bench.tracker.held.pop()()
    assert [ack.result for ack in bench.first.take("COMMAND_ACK")] == [ACCEPTED]
    assert len(bench.tracker.boxes) == 1
    assert bench.track(sequence=5) == []
    bench.tracker.held.pop()()
    assert [ack.result for ack in bench.first.take("COMMAND_ACK")] == [ACCEPTED]


def test_a_selection_without_answer_fails_in_the_end(bench):
    bench.tracker.hold = True
    bench.track()
    bench.wait(11.0)
    results = [ack.result for ack in bench.first.take("COMMAND_ACK")]
    assert results[-1] == FAILED
    assert set(results[:-1]) == {IN_PROGRESS}
    bench.tracker.hold = False
    assert bench.track(sequence=99) == [ACCEPTED], "and others are possible again"
    bench.tracker.held.pop()()
    bench.wait(1.0)
    assert bench.first.take("COMMAND_ACK") == [], "the late answer is of no use any more"


def test_stop_works_while_a_selection_is_in_progress(bench):
    bench.tracker.hold = True
    bench.track(sequence=1)
    assert bench.command(STOP, sequence=2) == [ACCEPTED]
    assert bench.tracker.clears == 1


def test_over_a_bad_link_each_command_is_executed_once(bench):
    """A station resends until it is acknowledged; the link loses, doubles and delays packets."""
    chance = random.Random(1)
    sequence = 0
    for wanted in range(1, 41):
        corners = (0.1, 0.1, 0.2 + wanted / 100, 0.5)
        for confirmation in range(30):
            sequence = (sequence + 1) % 256
            copies = chance.choice((0, 1, 1, 2))
            heard = []
            for _ in range(copies):
                heard += bench.track(*corners, sequence=sequence, confirmation=confirmation)
            bench.wait(0.1)
            if heard and chance.random() < 0.5:  # otherwise the acknowledgements are lost
                assert set(heard) == {ACCEPTED}
                break
        else:
            raise AssertionError("never acknowledged")
        assert len(bench.tracker.boxes) == wanted
