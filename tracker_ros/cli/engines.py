# SPDX-License-Identifier: Apache-2.0
"""List built engines and exported graphs, check them, remove what is damaged or long unused."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cli.options import add_json_option, print_json

if TYPE_CHECKING:
    from tracker_ros.cache import Cache

SUMMARY = "list, verify and prune the cache of engines"
DAMAGED = 1
_MEGABYTE = 1_000_000
_NAMES = {"engines": "engines", "exported": "exported graphs"}


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
        help="prune: megabytes to keep of engines and of exported graphs, 0 for none (default: "
        "what building and exporting keep to)",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """List, verify or prune both caches, and print the outcome."""
    from tracker_ros.cache import Cache, cache_folder
    from tracker_ros.engines.onnx_engine import graph_cache

    limit = args.limit_mb
    if limit is not None and (args.action != "prune" or not 0 <= limit < math.inf):
        raise ValueError(f"--limit-mb {limit} is for prune, and at least 0")
    if args.cache is not None and not args.cache.is_dir():
        raise ValueError(f"--cache {args.cache} is no folder; give one that export wrote")
    folder = args.cache or cache_folder("engines")
    caches = {"engines": Cache(folder), "exported": graph_cache(folder)}
    if args.action == "prune":
        return _prune(caches, args)
    verify = args.action == "verify"
    found = {
        kind: [_described(cache, stem, verify=verify) for stem in cache.stems()]
        for kind, cache in caches.items()
    }
    if args.json:
        print_json({"folder": str(folder), **found})
    else:
        for kind, entries in found.items():
            for entry in entries:
                print(_line(entry))
            total = sum(entry.get("bytes", 0) for entry in entries) / _MEGABYTE
            print(f"{len(entries)} {_NAMES[kind]}, {total:.1f} MB in {caches[kind].folder}")
    return DAMAGED if any(e["problem"] for entries in found.values() for e in entries) else 0


def _prune(caches: dict[str, Cache], args: argparse.Namespace) -> int:
    report: dict[str, Any] = {"folder": str(caches["engines"].folder)}
    for kind, cache in caches.items():
        limit = cache.limit_bytes if args.limit_mb is None else int(args.limit_mb * _MEGABYTE)
        report[kind] = {"removed": cache.prune(limit, verify=True), "kept": cache.stems()}
    if args.json:
        print_json(report)
        return 0
    for kind, cache in caches.items():
        removed, kept = report[kind]["removed"], report[kind]["kept"]
        for stem in removed:
            print(f"removed {stem}")
        print(f"{len(removed)} {_NAMES[kind]} removed, {len(kept)} kept in {cache.folder}")
    return 0


def _described(cache: Cache, stem: str, *, verify: bool) -> dict[str, Any]:
    """Return what is known about an entry, and why it cannot be used."""
    from tracker_ros.cache import NotCached

    try:
        entry = cache.read(stem)
    except NotCached as problem:
        return {"name": stem, "problem": str(problem)}
    return {
        "name": stem,
        "problem": cache.verify(stem) if verify else "",
        "passed": bool(entry.sha256),
        "info": entry.info,
        "made": entry.made,
        "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used)),
        "bytes": entry.size,
        "key": {"graph": entry.key.subject, **entry.key.parts},
    }


def _line(entry: dict[str, Any]) -> str:
    """Return the text about one entry."""
    if "key" not in entry:
        return f"{entry['name']}: {entry['problem']}"
    key, info = entry["key"], entry["info"]
    where = f", {key['tensorrt']} on {key['gpu']}" if "tensorrt" in key else ""
    text = (
        f"{entry['name']}: {key['graph']} in {key['precision']}{where}, "
        f"{entry['bytes'] / _MEGABYTE:.1f} MB, used {entry['used']}"
    )
    if "tensorrt" in key:
        state = "passed" if entry["passed"] else "refused"
        text += f"\n  {state}: {info.get('summary', 'no figures')}"
    return text + (f"\n  {entry['problem']}" if entry["problem"] else "")
