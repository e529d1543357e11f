# SPDX-License-Identifier: Apache-2.0
"""Topics whose messages wait until they are taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from tracker_ros.nodes.messages import keep_last
from tracker_ros.nodes.spatial.polled_topic import PolledTopic

DEPTH = 3


class Pair:
    """A node that speaks and one that listens."""

    def __init__(self) -> None:
        self.speaker: Node = rclpy.create_node("speaker")
        self.listener: Node = rclpy.create_node("listener")
        self.publisher = self.speaker.create_publisher(String, "spoken", 10)

    def listen(self, raw: bool = False) -> PolledTopic:
        topic = PolledTopic(self.listener, String, "spoken", keep_last(DEPTH), raw=raw)
        self.until(lambda: self.publisher.get_subscription_count() == 1)
        return topic

    def say(self, *words: str) -> None:
        for word in words:
            self.publisher.publish(String(data=word))
        assert self.publisher.wait_for_all_acked()

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 30.0
        while not (found := condition()):
            assert time.monotonic() < end
            time.sleep(0.01)
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for node in (pair.speaker, pair.listener):
        node.destroy_node()


def test_the_newest_messages_wait_until_they_are_taken(pair):
    topic = pair.listen()
    assert topic.take() == []
    pair.say("one", "two", "three", "four")
    taken = []
    pair.until(lambda: taken.extend(topic.take()) or (taken and taken[-1].data == "four"))
    words = [message.data for message in taken]
    assert words == ["one", "two", "three", "four"][-len(words) :]
    assert topic.take() == []
    topic.close()
    topic.close()
    assert topic.take() == []


def test_no_more_than_its_depth_waits(pair):
    topic = pair.listen()
    pair.say(*map(str, range(10)))
    pair.say("last")
    time.sleep(0.2)
    taken = topic.take()
    assert len(taken) <= DEPTH
    assert taken[-1].data == "last"


def test_messages_may_be_taken_as_bytes(pair):
    topic = pair.listen(raw=True)
    pair.say("word")
    (data,) = pair.until(topic.take)
    assert deserialize_message(data, String).data == "word"


def test_an_executor_sleeps_while_messages_wait(pair):
    topic = pair.listen()
    pair.say("one", "two")
    executor = SingleThreadedExecutor()
    executor.add_node(pair.listener)
    executor.spin_once(timeout_sec=0.2)  # whatever the start has left
    used = time.thread_time()
    executor.spin_once(timeout_sec=1.0)
    assert time.thread_time() - used < 0.1
    executor.shutdown()
    assert [message.data for message in topic.take()][-1] == "two"
