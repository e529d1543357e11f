# SPDX-License-Identifier: Apache-2.0
"""Material and plain scenes that several test files draw from."""

import pytest

from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.photometric import PhotometricConfig
from tracker_ros.synthetic.textures import procedural_bank


@pytest.fixture(scope="session")
def bank():
    """A small procedural bank."""
    return procedural_bank(3, tiles=8, cutouts=16)


NO_CHANGE = PhotometricConfig(
    gain=0.0,
    colour_gain=0.0,
    gamma=0.0,
    grey_fraction=0.0,
    permuted_fraction=0.0,
    shade_fraction=0.0,
    shade=0.0,
    motion_blur_fraction=0.0,
    coarse_fraction=0.0,
    noise_limit=0.0,
)
"""Light, colour and blur as they are."""


@pytest.fixture(scope="session")
def plain():
    """Scenes in which nothing varies."""
    return PairConfig(
        rotation=0.0,
        aspect=0.0,
        shear=0.0,
        deformation=0.0,
        mirrored_fraction=0.0,
        template_jitter=0.0,
        context_limit=0.0,
        distractors=0,
        occluder_fraction=0.0,
        new_background_fraction=0.0,
        absent_fraction=0.0,
        border_fraction=0.0,
        photometric=NO_CHANGE,
    )
