# SPDX-License-Identifier: Apache-2.0
"""Where the golden data are, and how their arrays become weights and inputs.

`TRACKER_ROS_PARITY_DIR` names another folder of the same formats; without it the data kept beside
this file are used. A folder that lacks a file is an error: parity that was not checked must not
look like parity.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

OWN_FOLDER = Path(__file__).parent / "goldens"
VARIABLE = "TRACKER_ROS_PARITY_DIR"

# Golden configuration -> the model it checks.
OSTRACK_GOLDENS = {
    "ostrack_vitb_256_mae_ce_32x4_ep300": "ostrack_vitb_256_ce",
    "ostrack_vitb_256_mae_32x4_ep300": "ostrack_vitb_256",
    "ostrack_vitb_384_mae_ce_32x4_ep300": "ostrack_vitb_384_ce",
}
OSTRACK_TRAINED = "ostrack_vitb_256_mae_ce_32x4_ep300"
GRM_GOLDENS = {"grm_vitb_256_ep300": "grm_vitb_256", "grm_vitl_320_ep300": "grm_vitl_320"}
GRM_TRAINED = "grm_vitb_256_ep300"
ONE_STREAM_GOLDENS = {**OSTRACK_GOLDENS, **GRM_GOLDENS}
# Those with a training step and whole runs.
ONE_STREAM_TRAINED = (OSTRACK_TRAINED, GRM_TRAINED)

# Whole runs of TrDiMP and TrSiam, by golden file.
TRDIMP_RUNS = ("trdimp", "trsiam", "trdimp_fast", "trdimp_vot")

REQUIRED = [
    *(f"{name}.json" for name in ONE_STREAM_GOLDENS),
    *(f"{name}_net.npz" for name in ONE_STREAM_GOLDENS),
    *(f"{name}_{part}.npz" for name in ONE_STREAM_TRAINED for part in ("track", "train")),
    "grm_units.npz",
    "loss_ostrack_grm.npz",
    "ostrack_units.npz",
    "prepost.npz",
    "seeds.json",
    "ops_prroi.npz",
    "trdimp.json",
    "trsiam.json",
    "ops_correlation.npz",
    "ops_deform.npz",
    "mast.json",
    "mast_notes.json",
    "mast_schedule.json",
    *(f"mast_{part}.npz" for part in ("colorizer", "e2e", "features", "overrides", "train")),
    *(f"{name}_e2e.npz" for name in TRDIMP_RUNS),
    *(
        f"trdimp_{part}.npz"
        for part in (
            "backbone",
            "filter",
            "iou",
            "labels",
            "sample_patch",
            "tracker_units",
            "transformer",
        )
    ),
]


def check_folder(path: Path) -> Path:
    """Return `path` if it holds every golden file.

    Raises:
        FileNotFoundError: It is no folder, or files are missing; the message lists them.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"parity folder {path} does not exist; expected a folder with {', '.join(REQUIRED)} "
            f"(unset {VARIABLE} to use the data of the repository)"
        )
    required = list(REQUIRED)
    tracks = [path / f"{name}_track.npz" for name in ONE_STREAM_TRAINED]
    required += [Golden(track).meta["video"] for track in tracks if track.is_file()]
    missing = [name for name in dict.fromkeys(required) if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"parity folder {path} is incomplete, it lacks {', '.join(missing)} "
            f"(unset {VARIABLE} to use the data of the repository)"
        )
    return path


class Golden:
    """Arrays of one `.npz` by name, and its `meta_json` where there is one."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as archive:
            self.arrays = {name: archive[name] for name in archive.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays.pop("meta_json", "{}")))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def json(self, name: str) -> Any:
        """What is stored as a JSON string under `name`."""
        return json.loads(str(self.arrays[name]))

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


@lru_cache(maxsize=1)
def folder() -> Path:
    """The folder in use, checked."""
    return check_folder(Path(os.environ.get(VARIABLE) or OWN_FOLDER))


@lru_cache(maxsize=4)
def golden(name: str) -> Golden:
    """One `.npz` of the folder in use."""
    return Golden(folder() / name)


@cache
def document(name: str) -> dict[str, Any]:
    """One configuration's JSON of the folder in use."""
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))


def helper(module: str) -> Any:
    """A module that came with the golden data; they import each other by bare name."""
    if str(OWN_FOLDER) not in sys.path:
        sys.path.insert(0, str(OWN_FOLDER))
    return __import__(module)


def golden_weights(name: str, seed: int) -> dict[str, np.ndarray]:
    """The synthetic weights that a configuration's goldens were made with."""
    doc = document(name)
    return helper("parity_inputs").golden_weights(
        doc["state_dict"], seed, doc["inference"]["search_factor"], doc["weight_overrides"]
    )


def fingerprint(state: dict[str, np.ndarray]) -> str:
    """sha256 of a state, as the golden data record it."""
    return helper("seeded_state").fingerprint(state)


def seeded_array(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One synthetic parameter."""
    return helper("seeded_state").seeded_array(name, shape, seed)


def network_inputs(name: str, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Template (B, 3, T, T) and search region (B, 3, S, S) of a configuration's goldens."""
    sizes = document(name)["inference"]
    seeded_input = helper("seeded_state").seeded_input
    template, search = (
        seeded_input(kind, (2, 3, sizes[f"{kind}_size"], sizes[f"{kind}_size"]), seed)[:batch]
        for kind in ("template", "search")
    )
    return template, search


@cache
def seed_of(name: str) -> int:
    """Seed of the goldens of one kind: "trdimp", "trsiam", "mast" or "ops"."""
    return int(json.loads((folder() / "seeds.json").read_text(encoding="utf-8"))[name])


@lru_cache(maxsize=1)
def trdimp_weights() -> dict[str, np.ndarray]:
    """The synthetic weights, all 419, that the goldens of TrDiMP and TrSiam were made with."""
    shapes = {key: tuple(shape) for key, shape in document("trdimp")["state_dict"].items()}
    return helper("trdimp_state").trdimp_state_dict(shapes, seed_of("trdimp"))


@lru_cache(maxsize=1)
def mast_weights() -> dict[str, np.ndarray]:
    """The synthetic weights, all 116, that the goldens of MAST were made with."""
    return helper("mast_state").mast_state_dict(
        document("mast")["state_dict"], seed_of("mast"), str(folder() / "mast_overrides.npz")
    )


def stats(array: np.ndarray) -> np.ndarray:
    """Mean, deviation (unbiased), sum of absolute values, minimum and maximum, as `_stats` are."""
    a = np.asarray(array, dtype=np.float64)
    return np.array([a.mean(), a.std(ddof=1), np.abs(a).sum(), a.min(), a.max()])
