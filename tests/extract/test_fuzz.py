"""Whatever bytes come in: frames with increasing times and a status, or 'unreadable'. Nothing else.

More by hand: ``FUZZ_FILES=20000 FUZZ_SEED=7 pytest tests/extract/test_fuzz.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.extract.device import Device
from stages.extract.inputs import Source
from stages.extract.recipe import Recipe
from stages.extract.workers import WorkerSetup, run_clips
from store import Status
from tests.extract.fuzz_clips import FRAMES, SIZE, broken, originals, real_ones

ROOT = Path(__file__).parents[2]
FILES = int(os.environ.get("FUZZ_FILES", "400"))
SECONDS = 20.0  # for one of these files; it takes some hundredths of one on a machine at rest
SEED = int(os.environ.get("FUZZ_SEED", "20261123"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    return originals(folder / "originals") + real_ones(folder / "real")


def examine(folder: Path, timeout: float) -> tuple[dict[str, dict], int]:
    """Read every file below a folder in another process; return what it found and its peak RSS."""
    command = [sys.executable, "-m", "tests.extract.fuzz_clips", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"died (exit code {done.returncode}) on {lines[-1]}: {done.stderr}"
    assert done.stderr == ""
    names, results = lines[:-1:2], lines[1:-1:2]
    found = {name["file"]: result for name, result in zip(names, results, strict=True)}
    return found, lines[-1]["peak_kib"]


def test_the_clips_before_they_are_broken(sources: list[Path]) -> None:
    found, _ = examine(sources[0].parent, timeout=60)
    assert len(found) == 8
    for name, result in found.items():
        assert (result["status"], result["frames"], result["message"]) == ("ok", FRAMES, ""), name
        assert result["sizes"] == [[SIZE[1], SIZE[0], 3, "uint8"]], name
    for name, result in examine(sources[-1].parent, timeout=60)[0].items() if sources[8:] else ():
        assert (result["status"], result["message"]) == ("ok", ""), name
        assert 15 < result["frames"] < 25, name


def test_broken_bytes_end_in_frames_or_in_unreadable(sources: list[Path], tmp_path: Path) -> None:
    broken(tmp_path / "broken", sources, FILES, SEED)
    found, peak_kib = examine(tmp_path / "broken", timeout=60 + FILES / 10)
    assert len(found) == FILES
    for name, result in found.items():
        about = f"{name}: {result}"
        assert result["seconds"] < SECONDS, about
        if result["status"] == "unreadable":
            assert result["frames"] == 0, about
            assert result["message"], about
            continue
        assert result["status"] in ("ok", "truncated"), about
        assert result["frames"] == result["yielded"] > 0, about
        assert result["finite"], about
        assert result["increasing"], about
        assert result["sizes"] == [result["expected_size"]], about
    statuses = [result["status"] for result in found.values()]
    for status in ("ok", "truncated", "unreadable"):
        assert statuses.count(status) > FILES / 100, "the faults are too weak or too strong"
    assert peak_kib < 1024**2, "a broken header made the decoder ask for gigabytes"


def test_broken_bytes_through_worker_processes(
    sources: list[Path], tmp_path: Path, small_pack: Path
) -> None:
    files = broken(tmp_path / "broken", sources, 64, SEED + 1)
    clips = [Source(path.name, path) for path in files]
    setup = WorkerSetup(str(small_pack), Device.CPU, Recipe())
    results = {
        record.clip: (record, rows) for record, rows in run_clips(clips, setup, 2, time_limit_s=60)
    }
    assert results.keys() == {clip.clip for clip in clips}
    for record, rows in results.values():
        assert record.status is not Status.FAILED, record
        assert (rows is not None) is record.status.has_rows, record
        if rows is None:
            assert record.message, record
            continue
        lengths = {name: len(array) for name, array in rows.as_dict().items()}
        assert set(lengths.values()) == {record.frames}, (record, lengths)
        assert np.isfinite(rows.timestamp).all(), record
        assert (np.diff(rows.timestamp) > 0).all(), record
        assert not np.isnan(rows.embedding[rows.valid].astype(np.float64)).any(), record
    assert sum(rows is not None for _, rows in results.values()) > 10
