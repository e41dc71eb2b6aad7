"""How long every `--help` takes, from starting Python to its end.

Each command's in a process of its own, the best of some turns: what else the machine does adds.
Ends with one line of JSON; leaves with 1 if one takes longer than the ceiling.

    python benchmarks/help.py [--turns 3] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from machine import machine, tell
from typer.main import get_command

from pipeline.cli import app
from pipeline.group import walk

CEILING_S = 0.5


def seconds(words: tuple[str, ...]) -> float:
    """Time one help."""
    command = [sys.executable, "-m", "pipeline", *words, "--help"]
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Time all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    best = {
        " ".join(words): round(min(seconds(words) for _ in range(args.turns)), 3)
        for words, _ in walk(get_command(app))
    }
    slowest = max(best, key=lambda name: best[name])
    told = {"slowest": slowest, "slowest_s": best[slowest], "ceiling_s": CEILING_S, "help_s": best}
    tell({**told, "machine": machine(("facepipe", "typer", "rich"))}, args.out)
    sys.exit(best[slowest] > CEILING_S)


if __name__ == "__main__":
    main()
