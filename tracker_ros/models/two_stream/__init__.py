# SPDX-License-Identifier: Apache-2.0
"""A tracker that encodes templates once, on a pretrained convolutional body."""
