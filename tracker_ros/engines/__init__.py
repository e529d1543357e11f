# SPDX-License-Identifier: Apache-2.0
"""What computes a network's static graphs: torch, ONNX Runtime, TensorRT."""
