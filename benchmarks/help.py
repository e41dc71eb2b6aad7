"""How long every `--help` takes, from starting Python to its end, and its seconds of CPU.

Each command's in a process of its own, the best of some turns: what else the machine does adds to
the time, hardly to the CPU's.
Ends with one line of JSON; leaves with 1 if one takes longer than the ceiling.

    python benchmarks/help.py [--turns 3] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from machine import machine, tell
from typer.main import get_command

from pipeline.cli import app
from pipeline.group import walk

CEILING_S = 0.5


def seconds(words: tuple[str, ...]) -> tuple[float, float]:
    """Time one help; return seconds by the clock and of CPU."""
    command = [sys.executable, "-m", "pipeline", *words, "--help"]
    begin, before = time.perf_counter(), _cpu()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin, _cpu() - before


def _cpu() -> float:
    """Seconds of CPU of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Time all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    best, cpu = {}, {}
    for words, _ in walk(get_command(app)):
        turns = [seconds(words) for _ in range(args.turns)]
        name = " ".join(words)
        best[name], cpu[name] = (round(min(s), 3) for s in zip(*turns, strict=True))
    slowest = max(best, key=lambda name: best[name])
    told = {
        "slowest": slowest,
        "slowest_s": best[slowest],
        "largest_cpu_s": max(cpu.values()),
        "ceiling_s": CEILING_S,
        "help_s": best,
        "help_cpu_s": cpu,
    }
    tell({**told, "machine": machine(("facepipe", "typer", "rich"))}, args.out)
    sys.exit(best[slowest] > CEILING_S)


if __name__ == "__main__":
    main()
