"""A run that is killed again and again at random moments, each time resumed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import store
from stages.extract.run import extract
from tests.testing.clips import moving_square
from tests.testing.runs import options

KILLS = 25
CLIPS = 96

# Flushes every few clips, where a real run does after thousands of frames: kills meet them too.
RUN = """
import functools, sys
from pathlib import Path
import store
from stages.extract.run import ExtractOptions, extract
from stages.extract.device import Device
from store.layout import Layout
if __name__ == "__main__":
    store.Writer = functools.partial(store.Writer, layout=Layout(flush_rows=16))
    videos, path, pack = sys.argv[1:]
    extract(ExtractOptions([Path(videos)], Path(path), pack, Device.CPU, 2),
            finished=lambda record, summary: print(record.clip, flush=True))
"""


def test_killed_25_times_and_resumed_gives_the_digest_of_a_quiet_run(
    small_pack: Path, tmp_path: Path
) -> None:
    videos, rough = tmp_path / "videos", tmp_path / "rough.store"
    videos.mkdir()
    for i in range(6):
        moving_square(videos / f"0-{i}.mp4", frames=6 + i, step=(2 + i / 2, 1))
    for i in range(6, CLIPS):
        os.link(videos / f"0-{i % 6}.mp4", videos / f"{i // 6}-{i % 6}.mp4")
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(videos), str(rough), str(small_pack)]
    rng = random.Random(0)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        if kills % 3 == 2:  # while it starts: imports, the store, the workers
            time.sleep(rng.uniform(0.1, 2.0))
        else:  # from the first clips on: nets, decoders, the journal, flushes
            for _ in range(rng.randint(1, 4)):
                process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.05))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        ended = process.wait() == 0
        process.stdout.close()
        if (rough / "index.sqlite").exists():
            report = store.verify(rough)
            assert report.ok, (kills, report.problems)
        if ended:  # a fast machine came to the end before the kill: there is nothing left to kill
            shutil.rmtree(rough)
        else:
            kills += 1
    quiet = options(videos, tmp_path, small_pack)
    summary = extract(replace(quiet, store=rough))
    assert sum(summary.statuses.values()) <= CLIPS
    assert store.verify(rough).ok
    extract(quiet)
    assert dict(store.digest(rough)) == dict(store.digest(tmp_path / "f.store"))
