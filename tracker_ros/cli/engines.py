# SPDX-License-Identifier: Apache-2.0
"""List the built engines, check their files, or remove what is damaged or long unused."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cli.options import add_json_option, print_json

if TYPE_CHECKING:
    from tracker_ros.engines.engine_cache import EngineCache

SUMMARY = "list, verify and prune the cache of engines"
DAMAGED = 1
_MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "verify", "prune"),
        default="list",
        help="list what there is; verify the files, exiting with 1 if any is damaged; prune what "
        "is damaged, then what was used longest ago, down to --limit-mb (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of engines (default: the user's cache of engines)",
    )
    parser.add_argument(
        "--limit-mb",
        type=float,
        default=None,
        help="prune: megabytes to keep, 0 for none (default: what building engines keeps to)",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Look at the cache, and print what was found."""
    from tracker_ros.engines.engine_cache import EngineCache

    if args.limit_mb is not None and (args.action != "prune" or not args.limit_mb >= 0):
        raise ValueError(f"--limit-mb {args.limit_mb} is for prune, and at least 0")
    cache = EngineCache(args.cache)
    if args.action == "prune":
        return _prune(cache, args)
    engines = [_described(cache, stem, verify=args.action == "verify") for stem in cache.stems()]
    if args.json:
        print_json({"folder": str(cache.folder), "engines": engines})
    else:
        for engine in engines:
            print(_line(engine))
        total = sum(engine.get("bytes", 0) for engine in engines) / _MEGABYTE
        print(f"{len(engines)} engines, {total:.1f} MB in {cache.folder}")
    return DAMAGED if any(engine["problem"] for engine in engines) else 0


def _prune(cache: EngineCache, args: argparse.Namespace) -> int:
    limit = cache.limit_bytes if args.limit_mb is None else int(args.limit_mb * _MEGABYTE)
    removed = cache.prune(limit)
    if args.json:
        print_json({"folder": str(cache.folder), "removed": removed, "kept": cache.stems()})
        return 0
    for stem in removed:
        print(f"removed {stem}")
    print(f"{len(removed)} engines removed, {len(cache.stems())} kept in {cache.folder}")
    return 0


def _described(cache: EngineCache, stem: str, *, verify: bool) -> dict[str, Any]:
    """What is known of an entry, and what is wrong with it; its sidecar is always read."""
    from tracker_ros.engines.engine_cache import NotCached

    try:
        entry = cache.read(stem)
    except NotCached as problem:
        return {"name": stem, "problem": str(problem)}
    return {
        "name": stem,
        "problem": cache.verify(stem) if verify else "",
        "passed": entry.passed,
        "gate": entry.gate,
        "built": entry.built,
        "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used)),
        "bytes": entry.size,
        "key": asdict(entry.key),
    }


def _line(engine: dict[str, Any]) -> str:
    """One entry for people."""
    if "key" not in engine:
        return f"{engine['name']}: {engine['problem']}"
    key, gate = engine["key"], engine["gate"]
    state = "passed" if engine["passed"] else "refused"
    text = (
        f"{engine['name']}: {key['graph']} in {key['precision']}, {key['tensorrt']} on "
        f"{key['gpu']}, {engine['bytes'] / _MEGABYTE:.1f} MB, used {engine['used']}\n"
        f"  {state}: {gate.get('summary', 'no figures')}"
    )
    return text + (f"\n  {engine['problem']}" if engine["problem"] else "")
