# SPDX-License-Identifier: Apache-2.0
"""Fetch a pretrained body, and write it as safetensors for `tracker-ros train`.

    dev/run python -m tools.fetch_body [--out BODY.safetensors]

The body is the first thirteen blocks of the MobileNetV2 of an object detector that Google trained
on Open Images V4. It comes inside the npm package @mediapipe/objectron (Apache-2.0), as a
TensorFlow Lite model in half precision with batch norm folded in. Nothing is installed: `npm pack`
and `pip download` fetch the package and the reader of its format, whose digests are checked.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracker_ros.checkpoints import write_weights
from tracker_ros.models.layers.mobilenet import MobileNetV2Body, SamePadConv

PACKAGE = "@mediapipe/objectron@0.4.1675468480"
PACKAGE_SHA256 = "fc3e37b326b05e8f596099c90b3e0931b05a56cd3160b9ac450b621794bac94c"
MEMBER = "package/objectron_solution_packed_assets.data"
MODEL_START, MODEL_BYTES = 184, 9_987_728
"""Where `object_detection_ssd_mobilenetv2_oidv4_fp16.tflite` lies in that file."""
MODEL_SHA256 = "d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6"
READER = "tflite==2.18.0"
OUT = Path("~/.cache/tracker_ros/open_images_mobilenet_v2.safetensors")


def checked(data: bytes, sha256: str, what: str) -> bytes:
    """Return the data. Exits with a message if its digest is another one."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        sys.exit(f"{what} has sha256 {found}; expected {sha256}")
    return data


def download(folder: Path) -> bytes:
    """Fetch package and reader into ``folder``, make the reader importable, return the model."""
    for command in (
        ["npm", "pack", "--silent", PACKAGE],
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", READER],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    sys.path.insert(0, str(next(folder.glob("tflite-*.whl"))))
    archive = next(folder.glob("*.tgz"))
    checked(archive.read_bytes(), PACKAGE_SHA256, archive.name)
    with tarfile.open(archive) as package:
        member = package.extractfile(MEMBER)
        assert member is not None
        data = member.read()[MODEL_START : MODEL_START + MODEL_BYTES]
    return checked(data, MODEL_SHA256, "the model")


def read_convolutions(data: bytes) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return kernels in torch's layout and biases of a model's convolutions, in their order."""
    import tflite

    model: Any = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    constants: dict[int, np.ndarray] = {}
    found = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = tflite.opcode2name(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if kind == "DEQUANTIZE":
            tensor = graph.Tensors(operator.Inputs(0))
            raw = model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
            halves = np.frombuffer(raw, np.float16).reshape(tensor.ShapeAsNumpy())
            constants[operator.Outputs(0)] = halves.astype(np.float32)
        elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            kernel, bias = constants[operator.Inputs(1)], constants[operator.Inputs(2)]
            # Output, row, column, input; of depthwise ones 1, row, column, channel.
            order = (0, 3, 1, 2) if kind == "CONV_2D" else (3, 0, 1, 2)
            found.append((torch.tensor(kernel.transpose(order)), torch.tensor(bias)))
    return found


def load_body(data: bytes) -> MobileNetV2Body:
    """Return the body of the detector in a TensorFlow Lite model.

    The convolutions that predict boxes stand between the body's; they have other shapes.
    """
    body, convolutions = MobileNetV2Body(), iter(read_convolutions(data))
    for module in body.modules():
        if isinstance(module, SamePadConv):
            kernel, bias = next(c for c in convolutions if c[0].shape == module.weight.shape)
            module.weight.data.copy_(kernel)
            module.bias.data.copy_(bias)  # type: ignore[union-attr]
    return body.eval()


def main() -> None:
    """Fetch the package, convert the body, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out.expanduser()
    with tempfile.TemporaryDirectory() as folder:
        body = load_body(download(Path(folder)))
    sha256 = write_weights(body.state_dict(), out, half=True)
    print(f"{out}: {sum(p.numel() for p in body.parameters())} weights, sha256 {sha256}")


if __name__ == "__main__":
    main()
