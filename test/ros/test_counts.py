# SPDX-License-Identifier: Apache-2.0
"""Every image is counted once, whatever becomes of it."""

from __future__ import annotations

import pytest
from follower_bench import Bench


@pytest.fixture
def bench(make_message):
    return Bench(make_message)


def test_images_pass_by_while_nothing_is_followed(bench):
    bench.follower.process(bench.arrive())
    bench.follower.process(bench.arrive(3))
    assert bench.counts() == {"received": 4, "idle": 2, "dropped": 2}


def test_what_is_replayed_was_counted_when_it_came(bench):
    for _ in range(4):
        bench.follower.process(bench.arrive())
    bench.select(2)
    assert bench.counts() == {"received": 4, "idle": 4}
    bench.follower.process(bench.arrive(2))
    assert bench.counts() == {"received": 6, "idle": 4, "dropped": 1, "tracked": 1}


def test_what_comes_during_a_replay_is_counted_by_it(bench):
    bench.follower.process(bench.arrive())
    bench.arrive(3)
    bench.select(2)
    assert bench.counts() == {"received": 4, "idle": 1, "tracked": 3}
    newest = bench.buffer.newest
    bench.follower.process(newest)
    assert bench.counts()["received"] == 4, "the replay was there already"


def test_an_image_that_gives_nothing_is_rejected(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.process(bench.arrive(encoding="secret9"))
    bench.tracker.fails = True
    bench.follower.process(bench.arrive(2))
    assert bench.counts() == {
        "received": 4, "tracked": 1, "rejected": 2, "dropped": 1, "faults": 1,
    }  # fmt: skip


def test_a_pause_and_a_fresh_start(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.enable(False)
    bench.follower.process(bench.arrive())
    assert bench.counts() == {"received": 2, "tracked": 1, "idle": 1}
    bench.arrive(2)
    bench.follower.reset()
    assert bench.counts() == {}
    bench.follower.process(bench.arrive(2))
    assert bench.counts() == {"received": 2, "dropped": 1, "idle": 1}
