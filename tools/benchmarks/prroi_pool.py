# SPDX-License-Identifier: Apache-2.0
"""Time of the RoI pooling in one step of TrDiMP's box refinement: matrix products against kernel.

    dev/run python -m tools.benchmarks.prroi_pool

Prints a row of a Markdown table for each map. On a GPU `fastest_prroi_pool` chooses by the same
measurement when a model is loaded.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from tracker_ros.cuda.prroi_pool import MapPool, compiled_pool, pool_by_matrix
from tracker_ros.registry import resolve_device

# Cells along a side of the map, channels, bins along a side: the branch of AtomIoUNet that boxes
# are pooled from, in the official network and in the embedded one.
CASES = [(44, 256, 5), (22, 256, 3), (32, 64, 5), (16, 64, 3)]
BOXES = 10


def milliseconds(pool: MapPool, case: tuple[torch.Tensor, torch.Tensor, int]) -> float:
    """Return the median time of pooling with the gradient by the boxes."""
    device, times = case[0].device, []
    for _ in range(50):
        start = time.perf_counter()
        pooled = pool(*case)
        pooled.box_gradient(pooled.values)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    device = resolve_device(parser.parse_args().device)
    torch.set_num_threads(1)
    compiled = compiled_pool(device)
    if compiled is None:
        raise SystemExit("the kernel cannot be built here; the log says why")
    print(f"| Map on {device.type} | bins | matrix products, ms | kernel, ms |")
    print("| --- | --- | --- | --- |")
    for cells, channels, bins in CASES:
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn(cells, cells, channels, generator=generator).to(device)
        corners = torch.rand(BOXES, 2, 2, generator=generator).sort(dim=1).values * cells
        case = maps, corners.flatten(1).to(device), bins
        matrix, kernel = milliseconds(pool_by_matrix, case), milliseconds(compiled, case)
        print(
            f"| {cells} × {cells} × {channels} | {bins} × {bins} | {matrix:.3f} | {kernel:.3f} |"
        )


if __name__ == "__main__":
    main()
