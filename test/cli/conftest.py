# SPDX-License-Identifier: Apache-2.0
"""What the command-line tests share: a small video and weights that need no training."""

import numpy as np
import pytest

from tracker_ros.io.writer import VideoWriter


@pytest.fixture(scope="session")
def square_video(tmp_path_factory):
    """A textured square that moves two pixels a frame; its first box is 30 40 32 32."""
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    generator = np.random.default_rng(0)
    ground = generator.integers(60, 120, (120, 160, 3), dtype=np.uint8)
    patch = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    with VideoWriter(path, 10, (160, 120)) as writer:
        for index in range(8):
            image = ground.copy()
            image[40:72, 30 + 2 * index : 62 + 2 * index] = patch
            writer.write(image)
    return path


@pytest.fixture(scope="session")
def untrained_weights(tmp_path_factory):
    """Random weights of the small model: enough to see that the plumbing holds."""
    import torch

    from tracker_ros.checkpoints import write_weights
    from tracker_ros.models.one_stream.config import OSTRACK_CONFIGS
    from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    write_weights(OSTrackNetwork(OSTRACK_CONFIGS["ostrack_tiny"]).state_dict(), path, half=True)
    return path
