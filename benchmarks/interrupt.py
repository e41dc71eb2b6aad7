"""Kill `pipeline extract` again and again at random moments; what is left must be whole.

Extracts a folder once in peace, then into a second store with runs that are killed (SIGKILL, all
processes) after a random time, up to that of a whole run, each followed by the next, and a last one
in peace. A store that holds all clips is compared and begun anew, so that kills meet work. All must
verify and have one digest. Ends with one line of JSON; leaves with 1 if they differ.

    python benchmarks/interrupt.py FOLDER [--kills 25] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import store


def command(folder: Path, where: Path) -> list[str]:
    """Return the command line of one extraction."""
    return [sys.executable, "-m", "pipeline", "extract", str(folder), "--store", str(where)]


def main() -> int:
    """Run it, print a line for each kill and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        calm, rough = Path(scratch) / "calm.store", Path(scratch) / "rough.store"
        begin = time.perf_counter()
        subprocess.run(command(given.folder, calm), check=True, capture_output=True)
        whole = time.perf_counter() - begin
        expected, clips = dict(store.digest(calm)), store.verify(calm).clips
        verified = done = finished = 0
        same = True
        for kill in range(given.kills):
            process = subprocess.Popen(
                command(given.folder, rough),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(rng.uniform(0.3, whole))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if (rough / "index.sqlite").exists():
                report = store.verify(rough)
                verified += report.ok
                done = report.clips
            else:
                verified += 1
            print(f"kill {kill + 1}: {done} clips committed", flush=True)
            if done == clips:
                same &= dict(store.digest(rough)) == expected
                shutil.rmtree(rough)
                done, finished = 0, finished + 1
        subprocess.run(command(given.folder, rough), check=True, capture_output=True)
        same &= dict(store.digest(rough)) == expected
        whole_at_end = store.verify(rough).ok
    good = same and whole_at_end and verified == given.kills
    told = {
        "benchmark": "interrupt",
        "kills": given.kills,
        "verified_after_kill": verified,
        "verified_at_end": whole_at_end,
        "stores_finished": finished + 1,
        "same_digest": same,
        "seconds_in_peace": round(whole, 1),
    }
    print(json.dumps(told))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
