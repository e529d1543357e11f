# SPDX-License-Identifier: Apache-2.0
"""What exists while the node is configured: the model, its worker, the cameras that share it."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from rclpy.lifecycle import Node as LifecycleNode

from tracker_ros.following.follower import Follower
from tracker_ros.following.several_cameras import handle_together
from tracker_ros.following.watchdog import Watchdog
from tracker_ros.following.worker import Worker
from tracker_ros.nodes.followed_camera import FollowedCamera, WaitingFrame
from tracker_ros.nodes.monitoring import Diagnostics, ModelStatus
from tracker_ros.nodes.parameters import Value
from tracker_ros.process import give_back_free_memory
from tracker_ros.quoting import printable
from tracker_ros.tracker import Tracker

__all__ = ["Session"]

_STOP_S = 0.2
_JOB_S = 2.0
_POLL_S = 0.1


class Session:
    """The time from configure to cleanup.

    One thread, the worker's, owns the model. All cameras share both: their targets are followed by
    forks of one tracker.

    Args:
        node: The node.
        parts: By the names of the cameras, the node or its part for the camera.
        make_tracker: Makes the model; called in the worker's thread.
        loaded: Called in the worker's thread when loading has finished or failed.
        ids: Numbers for targets; shared between sessions, so that none is used twice.
        values: The node's parameters.
        diagnostics: Where to report.
        former: The session before this one. Its model is waited for, in the worker's thread, if it
            is still being loaded or used: two models would need twice the memory.

    Attributes:
        model: The state of the model.
        cameras: The cameras by their names.
    """

    def __init__(
        self,
        node: LifecycleNode,
        parts: Mapping[str, LifecycleNode],
        make_tracker: Callable[[], Tracker],
        loaded: Callable[[], None],
        ids: Iterator[int],
        values: Mapping[str, Value],
        diagnostics: Diagnostics,
        former: Session | None = None,
    ) -> None:
        self._node = node
        self._make_tracker = make_tracker
        self._loaded = loaded
        self._diagnostics = diagnostics
        self._former = former
        self._closed = self._given_up = False
        self._active = False
        self._lagging: list[FollowedCamera] = []
        self._load_began = time.monotonic()
        self._load_ended = threading.Event()
        self.model = ModelStatus(name=str(values["model"]), loading=True)
        diagnostics.begin(self.model)
        self._worker: Worker[WaitingFrame] = Worker(
            handle=self._handle,
            idle=self._idle,
            busy=self._catch_up,
            failed=self._report_exception,
        )
        self.cameras = {
            name: FollowedCamera(
                part, self._worker, self.model.name, ids, values, diagnostics.cameras[name]
            )
            for name, part in parts.items()
        }
        self._watchdog = Watchdog(self._worker)
        self._worker.post(self._load)
        self._worker.start()

    @property
    def load_seconds(self) -> float:
        """Seconds since loading began."""
        return time.monotonic() - self._load_began

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Wait until loading has finished or failed. Returns False on timeout or at shutdown."""
        deadline = time.monotonic() + timeout_s
        while self._node.context.ok() and (left := deadline - time.monotonic()) > 0:
            if self._load_ended.wait(min(left, _POLL_S)):
                return True
        return self._load_ended.is_set()

    def wait_until_ended(self) -> None:
        """Wait until the worker has ended after `close`, unless it has been given up."""
        if not self._given_up:
            self._worker.join()

    def activate(self) -> None:
        """Expect images and requests from now on."""

        def begin() -> None:
            self._reset()
            self._active = True

        self._worker.run_and_wait(begin, _JOB_S)
        for camera in self.cameras.values():
            camera.subscribe()

    def deactivate(self) -> None:
        """Expect no more images: forget the targets, keep the model."""

        def rest() -> None:
            self._active = False
            self._reset()
            give_back_free_memory()

        for camera in self.cameras.values():
            camera.unsubscribe()
        # Frames that still wait are taken all the same: their decoders wait for that.
        # When the program ends, nobody waits for targets to be forgotten.
        self._worker.run_and_wait(rest, _JOB_S if self._node.context.ok() else 0.0)

    def check_worker(self, hang_timeout_s: float) -> str:
        """Return why the worker is given up, if it has died or hangs; then `fail` is due."""
        if self._closed:
            return ""
        return self._watchdog.check(hang_timeout_s, patient=self.model.loading)

    def fail(self, reason: str) -> None:
        """Give the worker up: refuse all requests, and tell that nothing is followed."""
        self._closed = self._given_up = True
        self.model.error, self.model.ready, self.model.loading = reason, False, False
        for camera in self.cameras.values():
            camera.fail(reason)

    def close(self) -> None:
        """Stop the worker, release the model, destroy the publishers.

        Does not wait for a model that is being loaded or computes: it is released afterwards.
        """
        for camera in self.cameras.values():
            camera.end_requests()
        ended = self._worker.stop(self._unload, 0.0 if self._given_up else _STOP_S)
        self._closed = True
        if not ended and self._node.context.ok():
            self._node.get_logger().warning(
                f"model {self.model.name} is still busy; it is released when it has finished"
            )
        for camera in self.cameras.values():
            camera.close()
        self._diagnostics.begin(ModelStatus())

    def apply(self, values: Mapping[str, Value]) -> None:
        """Use changed parameters from the next frame on."""
        for camera in self.cameras.values():
            camera.apply(values)

    def _reset(self) -> None:
        for camera in self.cameras.values():
            camera.follower.reset()

    def _load(self) -> None:
        """Make the model. Its state is complete before the log tells of it."""
        model, logger = self.model, self._node.get_logger()
        if self._former is not None:
            self._former.wait_until_ended()
            self._former = None
            if self._closed:
                return
        followers = [camera.follower for camera in self.cameras.values()]
        first, *others = followers
        for follower in others:
            follower.begin_loading()
        try:
            tracker = first.load(self._make_tracker)
            for follower in others:
                follower.use(tracker.fork())
        except Exception as error:  # shown by diagnostics, and by the refusal to activate
            model.error = printable(str(error) or repr(error), 1000)
        else:
            model.ready = True
            versions = _versions()
            model.facts = lambda: {**first.runtime_info(), **versions}
        finally:
            give_back_free_memory()
            model.loading = False
            for follower in followers:
                follower.loaded()
            self._load_ended.set()
        if self._closed:
            return
        if model.ready:
            facts = ", ".join(f"{name} {value}" for name, value in model.facts().items())
            logger.info(f"model {model.name} ready after {self.load_seconds:.1f} s ({facts})")
        else:
            logger.error(f"model {model.name} cannot be loaded: {model.error}")
        self._loaded()

    def _unload(self) -> None:
        self._active = False
        for camera in self.cameras.values():
            camera.follower.unload()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        give_back_free_memory()

    def _handle(self, frames: list[WaitingFrame]) -> None:
        """Track the newest frames of all cameras that have one."""
        for camera, _ in frames:
            camera.begin_next()
        if not self._active:
            return
        cameras: dict[Follower[Any], FollowedCamera] = {
            camera.follower: camera for camera, _ in frames
        }
        handle_together(
            [(camera.follower, frame) for camera, frame in frames],
            lambda follower, error: cameras[follower].report_exception(error),
        )
        self._idle(besides=[*cameras.values(), *self._lagging])

    def _idle(self, besides: Collection[FollowedCamera] = ()) -> None:
        """Let the targets of cameras that have been silent for too long become LOST."""
        for camera in self.cameras.values():
            if self._active and camera not in besides:
                camera.follower.note_silence()

    def _catch_up(self) -> list[FollowedCamera]:
        """Move one target of each camera on that lags behind. Returns these cameras."""
        self._lagging = []
        for camera in self.cameras.values():
            try:
                if self._active and camera.follower.catch_up():
                    self._lagging.append(camera)
            except Exception as error:  # one camera's failure is not the others'
                camera.report_exception(error)
        return self._lagging

    def _report_exception(self, error: BaseException) -> None:
        """Log an exception of no single camera."""
        next(iter(self.cameras.values())).report_exception(error)


def _versions() -> dict[str, str]:
    """Return the versions of interpreter and libraries in use."""
    found = {"python": platform.python_version()}
    for name in ("torch", "onnxruntime", "tensorrt"):
        if module := sys.modules.get(name):
            found[name] = str(getattr(module, "__version__", "unknown"))
    return found
