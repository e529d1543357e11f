# SPDX-License-Identifier: Apache-2.0
"""Operators that PyTorch lacks: plain torch, and kernels for the CPU and CUDA from one source."""
