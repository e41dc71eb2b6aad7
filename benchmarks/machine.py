"""What benchmarks share: what their figures depend on, the clips, how they end."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.demo.sources import fetch_clips
from store.errors import FacepipeError


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Name the date, the CPU, its cores, and the versions of packages that are installed."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }


def real_clips() -> Path:
    """Return the folder of the demo's real clips, fetched if they are not there yet."""
    folder = Path("demo/real_clips")
    fetch_clips(folder)
    return folder


def leave(main: Callable[[], int]) -> None:
    """Run a benchmark and leave with its code; what is wrong with its input is one line."""
    try:
        sys.exit(main())
    except FacepipeError as error:
        sys.exit(f"error: {error}")


def tell(told: dict[str, Any], out: Path | None) -> None:
    """Write the JSON to ``out`` if given, and as the one last line."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))
