# SPDX-License-Identifier: Apache-2.0
"""Compute a network's static graphs by torch, ONNX Runtime or TensorRT."""
