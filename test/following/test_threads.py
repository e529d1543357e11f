# SPDX-License-Identifier: Apache-2.0
"""Ten thousand changes of settings while targets come and go: each datum has one owner.

Everything that changes the follower is posted to the worker, as the node does it. The model is
held up by chance and threads take turns often, so that a second owner would soon be noticed.
"""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest
from follower_bench import Bench

from tracker_ros.following.selection import SelectionCode
from tracker_ros.following.target_state import StateLimits, TargetState
from tracker_ros.following.worker import Worker

CHANGES = 10_000
LENIENT, STRICT = StateLimits(0.2, 0.1, 3600.0), StateLimits(0.9, 0.8, 3600.0)


@pytest.fixture
def quick_switches():
    """Threads take turns a hundred times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


def test_ten_thousand_changes_while_targets_come_and_go(quick_switches):
    bench, chance, faults, threads = Bench(), random.Random(7), [], set()
    bench.tracker.score = 0.5

    def delay():
        threads.add(threading.current_thread().name)
        time.sleep(chance.choice((0.0, 0.0, 0.001)))

    bench.tracker.takes = delay
    follower = bench.follower
    worker = Worker(
        lambda frames: follower.handle(*frames),
        lambda: None,
        lambda: [None] * follower.catch_up(),
        faults.append,
    )
    worker.start()

    def change(limits):
        return worker.post(lambda: follower.set_limits(limits), "settings")

    def change_often():
        for turn in range(CHANGES):
            assert change((LENIENT, STRICT)[turn % 2])
            if turn % 50 == 0:
                time.sleep(0.001)  # let others have a turn

    def catch_up():
        while follower.catch_up():
            pass

    changing = threading.Thread(target=change_often)
    changing.start()
    selected = 0
    while changing.is_alive() or selected < 50:
        worker.put(bench.arrive(step_s=0.01))
        append = selected % 5 > 0
        if not append:  # else the request may wait, and be interrupted by a clear or a newer one
            assert worker.run_and_wait(catch_up, 60)
        assert worker.run_and_wait(lambda append=append: bench.request(append=append), 60)
        selected += 1
        if selected % 7 == 0:
            assert worker.post(follower.clear)
    changing.join()
    for limits, state in ((LENIENT, TargetState.TRACKING), (STRICT, TargetState.UNCERTAIN)):
        change(limits)
        assert worker.run_and_wait(catch_up, 60)
        assert worker.run_and_wait(lambda: (bench.request(), bench.request(append=True)), 60)
        assert worker.run_and_wait(catch_up, 60)
        frame = bench.arrive(step_s=0.01)
        assert worker.run_and_wait(lambda frame=frame: follower.handle(frame), 60)
        assert list(bench.states().values()) == [state, state], "the newest thresholds"
    assert worker.stop(follower.unload, 60)
    assert faults == []
    assert {outcome.code for outcome in bench.outcomes} == {SelectionCode.OK}
    assert threads == {"tracker"}
    bench.counts()
