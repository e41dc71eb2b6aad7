"""What the demo finds on persons it has not seen: SRC of 2stcn and of a time average, some seeds.

Clips, split and training are another for every seed; what the folder holds already is kept.

A table, one line of JSON at the end; leaves with 1 where 2stcn's interval does not lie above the
time average's SRC.

    python benchmarks/demo.py [--folder demo] [--seeds 3] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from machine import leave, machine, tell

from pipeline.demo.run import run_demo
from stages.fit.run import BASELINE

VERSIONS = ("facepipe", "numpy", "onnxruntime", "torch")


def main() -> int:
    """Run the seeds and say what they came to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows, short = [], []
    for seed in range(given.seeds):
        told = run_demo(given.folder, seed)
        (low, high), rival = told["src_ci95"]["2stcn"], told["src"][BASELINE]
        print(f"seed {seed}: SRC {told['src']['2stcn']:.3f} ({low:.3f} to {high:.3f}), "
              f"time averages in ridge {rival:.3f}", flush=True)  # fmt: skip
        rows.append({"seed": seed, **{k: told[k] for k in ("src", "src_ci95", "held_out")}})
        if not low > rival:
            short.append(f"seed {seed}: the interval from {low:.3f} holds {rival:.3f}")
    tell({"benchmark": "demo", **machine(VERSIONS), "runs": rows, "short_of": short}, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    leave(main)
