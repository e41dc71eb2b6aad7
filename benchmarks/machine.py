"""What benchmarks share: what their figures depend on, the clips, how they end."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
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


def training_machine(packages: Iterable[str]) -> dict[str, Any]:
    """Give torch one thread, as `pipeline fit` does; name what `machine` does and the load."""
    import torch

    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 2)
    return {**machine(packages), "torch_threads": torch.get_num_threads(), "load_before": load}


def portraits_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the options of what is measured on a folder of rated portraits."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path, help="folder with images/ and labels.csv")
    parser.add_argument("--store", type=Path, help="keep the features here; thrown away if not")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path)
    return parser


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


def judge(
    figures: Mapping[str, float], floors: Mapping[str, float], ceilings: Mapping[str, float] = {}
) -> list[str]:
    """Print a table of figures; return those that fall short of their bounds, or are NaN."""
    short = [k for k, least in floors.items() if k in figures and not figures[k] >= least]
    short += [k for k, most in ceilings.items() if k in figures and not figures[k] <= most]
    for name, value in figures.items():
        bound = floors.get(name, ceilings.get(name))
        mark = "" if bound is None else f"   ({'SHORT of' if name in short else 'holds'} {bound})"
        print(f"{name:34s} {value:12.4f}{mark}")
    return short


def tell(told: dict[str, Any], out: Path | None) -> None:
    """Write the JSON to ``out`` if given, and as the one last line."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))
