# SPDX-License-Identifier: Apache-2.0
"""Scenes that several tests draw."""

from tracker_ros.synthetic.scene_video import SceneConfig

EASY = SceneConfig(
    scale_change=0.1, turn=0.1, deformation=1.0, limbs=0, distractors=1, occluders=0, light=0.05
)
"""A scene in which nothing hides or resembles the target for long; any tracker follows it."""
