# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes with exact boxes, masks and visibility, deterministic by seed.

`textures` makes the material (a :class:`TextureBank`), `render` and `crops` draw batches of
layered scenes with torch on any device, `samples` draws training pairs and clips, `moving_scenes`
short runs of frames, and `scene_video` whole sequences.
"""
