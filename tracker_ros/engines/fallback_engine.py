# SPDX-License-Identifier: Apache-2.0
"""An engine that may break down, and the one that takes over."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from tracker_ros.engines.graph import Engine

_LOG = logging.getLogger(__name__)


class FallbackEngine(Engine):
    """Runs one engine until it fails, then another for good, from the very call that failed.

    What a tracker remembers lies in the tensors that it passes, so the target is kept.

    Args:
        engine: Runs first.
        instead: Makes the one that takes over, of the same graph; None if there is no other.
        reason: Why `engine` is itself a second choice; empty if it is not.
    """

    def __init__(
        self, engine: Engine, instead: Callable[[], Engine] | None, reason: str = ""
    ) -> None:
        self._instead = instead
        self._take(engine, reason)

    def _take(self, engine: Engine, reason: str) -> None:
        self._engine, self._reason = engine, reason
        self.spec, self.backend = engine.spec, engine.backend
        self.device, self.precision = engine.device, engine.precision

    @property
    def runs_on(self) -> dict[str, str]:
        """Those of the engine in use, and why it is not the first choice."""
        facts = self._engine.runs_on
        return {**facts, "fallback": self._reason} if self._reason else facts

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph; see `Engine`."""
        try:
            return self._engine(**tensors)
        except RuntimeError as error:
            if self._instead is None:
                raise
            failed, make = self._engine, self._instead
            reason = f"{failed.backend} {failed.precision} failed: {error}"
            self._instead = None
            self._take(make(), reason)
            _LOG.error(
                "graph %r is computed by %s %s from now on: %s",
                self.spec.name,
                self.backend,
                self.precision,
                reason,
            )
            return self._engine(**tensors)
