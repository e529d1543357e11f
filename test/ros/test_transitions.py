# SPDX-License-Identifier: Apache-2.0
"""A transition that does not begin in the present state is refused; the node goes on."""

from __future__ import annotations

import pytest
from lifecycle_msgs.msg import Transition

from tracker_interfaces.msg import TargetStatus


@pytest.mark.parametrize(
    "transition",
    [Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, 250],
)
def test_a_wrong_transition_is_refused(probe, transition):
    target_id = probe.start_following()
    assert not probe.change(transition)
    status = probe.show()
    assert (status.state, status.target_id) == (TargetStatus.TRACKING, target_id)
    probe.until(
        lambda: any(f"transition {transition} refused" in log.msg for log in probe.logs), "a log"
    )
