# SPDX-License-Identifier: Apache-2.0
"""What exists while the node is configured: model, worker, publishers."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable

from rclpy.lifecycle import Node as LifecycleNode
from sensor_msgs.msg import Image

from tracker_ros.following.frames import Frame, FrameBuffer, FrameReport
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.worker import Worker
from tracker_ros.nodes.messages import rgb_from_image
from tracker_ros.nodes.monitoring import Diagnostics, InputWatch, ModelStatus
from tracker_ros.nodes.publishers import DebugSettings, Outputs
from tracker_ros.process import give_back_free_memory
from tracker_ros.tracker import Tracker

__all__ = ["Session"]

_STOP_S = 3.0
_DEACTIVATE_S = 2.0


class Session:
    """One stretch from configure to cleanup.

    Args:
        node: The node.
        model_name: Name of the model.
        make_tracker: Makes the model; called in the worker's thread.
        loaded: Called, in the worker's thread, when loading has ended, well or not.
        buffer: The last frames.
        targets: What is followed; it outlives the session, so that ids are never given again.
        watch: The camera's side.
        diagnostics: Where to report.
        debug: How debug images are made.
    """

    def __init__(
        self,
        node: LifecycleNode,
        model_name: str,
        make_tracker: Callable[[], Tracker],
        loaded: Callable[[], None],
        buffer: FrameBuffer[Image],
        targets: TargetSet,
        watch: InputWatch,
        diagnostics: Diagnostics,
        debug: DebugSettings,
    ) -> None:
        self._node = node
        self._make_tracker = make_tracker
        self._loaded = loaded
        self._buffer = buffer
        self._watch = watch
        self._diagnostics = diagnostics
        self._closed = False
        self._active = False
        self._load_began = time.monotonic()
        self._load_ended = threading.Event()
        self.model = ModelStatus(name=model_name, loading=True)
        diagnostics.model = self.model
        diagnostics.latency.clear()
        self.outputs = Outputs(node, model_name, debug, diagnostics.latency.add)
        diagnostics.output_rate = self.outputs.rate
        self.follower = LiveFollower(
            rgb_from_image,
            targets,
            buffer,
            report=self._report,
            complain=lambda text, error: watch.complain(text),
            wants_image=lambda: self._active and self.outputs.wants_image(),
            topic=node.resolve_topic_name("image"),
        )
        self._worker: Worker[Frame[Image]] = Worker(
            handle=self._handle,
            idle=self._idle,
            busy=lambda: self._active and self.follower.catch_up(),
            failed=self._failed,
        )
        self.follower.explain = debug.token_mask
        self._worker.post(self._load)
        self._worker.start()

    @property
    def load_seconds(self) -> float:
        """Seconds since loading began."""
        return time.monotonic() - self._load_began

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Wait for the end of loading; whether it has ended in time."""
        return self._load_ended.wait(timeout_s)

    def activate(self) -> None:
        """Images and requests are coming from now on."""
        self._worker.run_and_wait(self.follower.reset, _DEACTIVATE_S)
        self._active = True

    def deactivate(self) -> None:
        """No more images: forget the target, keep the model."""
        self._active = False
        self._worker.empty_mailbox()
        self._buffer.clear()
        self._worker.run_and_wait(self._rest, _DEACTIVATE_S)

    def close(self) -> None:
        """End the worker, let go of the model, destroy the publishers."""
        self._active = False
        self._worker.post(self._unload)
        ended = self._worker.stop(_STOP_S)
        self._closed = True
        if not ended and self._node.context.ok():
            self._node.get_logger().warning(
                f"the worker is still busy after {_STOP_S:.0f} s; it ends after what it is doing"
            )
        self.outputs.close()
        self._diagnostics.model = ModelStatus()
        self._diagnostics.report = None

    def put(self, frame: Frame[Image]) -> None:
        """Hand over the newest frame."""
        self._worker.put(frame)

    def post(self, job: Callable[[], None]) -> None:
        """Have the worker run ``job`` before the next frame, unless it is stopping."""
        self._worker.post(job)

    def ask(
        self, job: Callable[[Callable[[Outcome], None]], None], answer: Callable[[Outcome], None]
    ) -> None:
        """Have the worker run a job that passes its outcome to ``answer``, now or later.

        If the job fails or the worker is stopping, the outcome is INTERRUPTED. ``answer`` is
        called in the worker's thread, or at once.
        """
        interrupted = Outcome(
            SelectionCode.INTERRUPTED, "the request was interrupted: see the node's log, ask again"
        )

        def run() -> None:
            try:
                job(answer)
            except Exception:
                answer(interrupted)
                raise

        if not self._worker.post(run):
            answer(interrupted)

    def _load(self) -> None:
        """Make the model, in the worker's thread."""
        logger = self._node.get_logger()
        try:
            self.follower.load(self._make_tracker)
        except Exception as error:  # told in diagnostics and by the refusal to activate
            self.model.error = str(error) or repr(error)
            logger.error(f"model {self.model.name} cannot be loaded: {self.model.error}")
        else:
            self.model.ready = True
            versions = _versions()
            self.model.facts = lambda: {**self.follower.runtime_info(), **versions}
            facts = ", ".join(f"{name} {value}" for name, value in self.model.facts().items())
            logger.info(f"model {self.model.name} ready after {self.load_seconds:.1f} s ({facts})")
        finally:
            give_back_free_memory()
            self.model.loading = False
            self._load_ended.set()
            self.follower.loaded()
            if not self._closed:
                self._loaded()

    def _rest(self) -> None:
        self.follower.reset()
        give_back_free_memory()

    def _unload(self) -> None:
        self.follower.unload()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        give_back_free_memory()

    def _handle(self, frame: Frame[Image]) -> None:
        if self._active:
            self.follower.handle(frame)

    def _idle(self) -> None:
        if self._active:
            self.follower.note_silence()

    def _report(self, report: FrameReport[Image]) -> None:
        if not self._closed:
            self._diagnostics.report = report
            self.outputs.publish(report)

    def _failed(self, error: BaseException) -> None:
        """A job or frame let an exception through."""
        if self._closed or not self._node.context.ok():
            return
        self.follower.counts.faults += 1
        self._node.get_logger().error(f"fault in the worker, it goes on: {error!r}")


def _versions() -> dict[str, str]:
    """Interpreter and libraries in use, for reports of faults."""
    found = {"python": platform.python_version()}
    for name in ("torch", "onnxruntime", "tensorrt"):
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found
