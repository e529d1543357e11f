# SPDX-License-Identifier: Apache-2.0
"""Run a body that is not trained: on a CPU with ONNX Runtime, in half the time of eager torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tracker_ros.engines.onnx_session import import_onnxruntime

CHUNK = 4
"""Images that a CPU computes at once; more do not fit into its cache."""


def frozen(function: nn.Module, size: int, threads: int) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the same as a module does now, without gradients.

    The module takes (B, 3, size, size) float32 on the CPU and returns one tensor. 0 threads leave
    their number to ONNX Runtime. Raises ImportError if ONNX or ONNX Runtime is not installed.
    """
    import onnx  # noqa: F401  (torch's exporter needs it)

    onnxruntime = import_onnxruntime()
    file: Any = io.BytesIO()  # torch takes it, although its types do not say so
    example = torch.zeros(CHUNK, 3, size, size)
    torch.onnx.export(
        function, (example,), file, input_names=["image"], output_names=["features"],
        dynamic_axes={"image": {0: "images"}, "features": {0: "images"}}, dynamo=False,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )

    def compute(images: Tensor) -> Tensor:
        parts = images.split(CHUNK)
        found = (session.run(None, {"image": part.contiguous().numpy()})[0] for part in parts)
        return torch.cat([torch.from_numpy(part) for part in found])

    return compute
