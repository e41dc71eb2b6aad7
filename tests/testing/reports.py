"""A small real run whose clips, subsets and persons have names that want to be executed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from stages.extract.device import Device
from stages.extract.run import ExtractOptions, extract
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.run import fit
from tests.testing.runs import QUICK, labelled_videos

# Each would put HACKED into the title if it were anywhere taken for markup or code.
NAMES = (
    "<img src=x onerror=document.title='HACKED'>",
    "\"><svg onload=document.title='HACKED'>",
    "';document.title='HACKED';'",
    "{{ 7*7 }}{% raw %}",
    "=cmd|'!A1 &lt;b&gt; &amp;",
    "\u05e9\u05dc\u05d5\u05dd 1",  # right to left
    "long" * 60,
    "plain",
)
SUBSETS = ("</script><script>document.title='HACKED'</script>", "S'1\"")
PERSON = '" onfocus="document.title=\'HACKED\'" autofocus x="%d'


@dataclass(frozen=True)
class MadeRun:
    """Where the parts of the run are."""

    videos: Path
    store: Path
    run: Path


def make_run(home: Path, pack: Path) -> MadeRun:
    """Extract and fit 24 clips of 12 persons, beside one that is none."""
    videos = labelled_videos(home / "videos")
    with (videos / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for k, row in enumerate(rows):
        path = videos / row["clip"]
        renamed = path.rename(videos / f"{k:02d} {NAMES[k % len(NAMES)]}.mp4")
        row |= {"clip": renamed.name, "person": PERSON % (k % 12), "subset": SUBSETS[k % 2]}
        row["gender"] = "fm"[k % 4 // 2]
    with (videos / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (videos / "<b>broken.mp4").write_bytes(b"no video")
    extract(ExtractOptions([videos], home / "f.store", str(pack), Device.CPU, 1))
    config = apply_overrides(FitConfig(), [*QUICK, "split.test=0.5"])
    fit(home / "f.store", videos / "labels.csv", home / "run", config)
    return MadeRun(videos, home / "f.store", home / "run")
