# SPDX-License-Identifier: Apache-2.0
"""MAST: masks propagated from a memory of earlier frames by matching self-supervised features."""
