# SPDX-License-Identifier: Apache-2.0
"""Tests of the requests that wait: each is answered, and only once."""

from __future__ import annotations

import threading

from tracker_ros.following.requests import MAX_WAITING_REQUESTS, Requests
from tracker_ros.following.selection import Outcome, SelectionCode

GOOD = Outcome(SelectionCode.OK, "good")
OVER = Outcome(SelectionCode.INTERRUPTED, "over")


def test_an_answer_is_given_once():
    heard = []
    answer = Requests().accept(heard.append)
    answer(GOOD)
    answer(OVER)
    assert heard == [GOOD]


def test_one_request_too_many_is_busy_until_another_is_answered():
    requests, heard = Requests(), []
    answers = [requests.accept(heard.append) for _ in range(MAX_WAITING_REQUESTS)]
    assert requests.accept(heard.append) is None
    assert [outcome.code for outcome in heard] == [SelectionCode.BUSY]
    answers[7](GOOD)
    assert requests.accept(heard.append) is not None


def test_the_end_answers_all_and_those_to_come():
    requests, heard = Requests(), []
    first, second = (requests.accept(heard.append) for _ in range(2))
    first(GOOD)
    requests.end(OVER)
    second(GOOD)
    assert requests.accept(heard.append) is None
    assert heard == [GOOD, OVER, OVER]


def test_many_threads_at_once():
    requests, heard = Requests(), []

    def ask():
        for _ in range(200):
            answer = requests.accept(heard.append)
            if answer is not None:
                answer(GOOD)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    requests.end(OVER)
    for thread in threads:
        thread.join()
    assert len(heard) == 1600
