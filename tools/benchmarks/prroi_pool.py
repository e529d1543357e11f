# SPDX-License-Identifier: Apache-2.0
"""Time one RoI pooling of TrDiMP's box refinement: as matrix products and by the kernel.

    dev/run python -m tools.benchmarks.prroi_pool

Both are compared with the time it takes to read the map and write the result once at the speed
at which this machine copies memory; nothing can be faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from tracker_ros.cuda.prroi_pool import prroi_pool
from tracker_ros.cuda.prroi_pool_kernel import prroi_pool_kernel

# Cells along a side of the map, channels, bins along a side: the test branch of AtomIoUNet.
CASES = [(44, 256, 5), (22, 256, 3)]
BOXES = 10


def milliseconds(call: Callable[[], Tensor], repeats: int = 50) -> float:
    """Return the median time of a call."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * sorted(times)[repeats // 2]


def measure(cells: int, channels: int, bins: int) -> dict[str, float]:
    """Return the ms of both forms, without and with gradients, and of the traffic alone."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, channels, cells, cells, generator=generator, requires_grad=True)
    corners = torch.rand(BOXES, 2, 2, generator=generator).sort(dim=1).values * cells
    rois = torch.cat([torch.zeros(BOXES, 1), corners.flatten(1)], 1).requires_grad_()
    found = {}
    for name, pool in (("matrix", prroi_pool), ("kernel", prroi_pool_kernel)):
        with torch.inference_mode():
            found[name] = milliseconds(lambda pool=pool: pool(features, rois, bins, 1.0))

        def with_gradients(pool: Callable[..., Tensor] = pool) -> Tensor:
            return torch.autograd.grad(pool(features, rois, bins, 1.0).sum(), (features, rois))[0]

        found[f"{name} + gradients"] = milliseconds(with_gradients, repeats=20)
    block = torch.empty(8_000_000)
    bytes_per_ms = 2 * block.nbytes / milliseconds(block.clone, repeats=10)
    found["traffic"] = (features.nbytes + 4 * BOXES * channels * bins**2) / bytes_per_ms
    return found


def main() -> None:
    """Print a line for each case."""
    torch.set_num_threads(1)
    for cells, channels, bins in CASES:
        times = ", ".join(
            f"{name} {ms:.2f} ms" for name, ms in measure(cells, channels, bins).items()
        )
        print(f"{BOXES} boxes, {channels} x {cells} x {cells}, {bins} x {bins} bins: {times}")


if __name__ == "__main__":
    main()
