# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes with exact boxes, masks and visibility, deterministic by seed.

``textures`` and ``pictures`` make the material (a :class:`TextureBank`), ``render`` draws batches
of layered scenes with torch on any device, ``pairs`` draws training pairs and ``video`` draws
whole sequences.
"""
