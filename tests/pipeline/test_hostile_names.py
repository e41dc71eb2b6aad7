"""Every name that a file can have goes from extract to the tables and harms nothing on its way."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import store
from stages.extract.inputs import find_clips
from stages.extract.overlay import overlay
from stages.live import LiveOptions, live
from store.tables import unguard
from tests.testing.browser import Watched, running
from tests.testing.command import pipeline
from tests.testing.hostile_names import write_hostile_clips
from tests.testing.packs import tiny_pack

NOW = 1_700_000_000
FORMULA = re.compile(r"(?:^|[;\t\r\n])[\" ]*[=+\-@\uff1d]")
NUMBER = re.compile(r"-?[\d.]+(e-?\d+)?")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV as any program would, and see that no cell is a formula or commands anything."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file, strict=True)
    for line in lines:
        assert len(line) == len(head), (path, line)
        for cell in line:
            assert NUMBER.fullmatch(cell) or cell.startswith("'") or not FORMULA.search(cell), cell
            assert not CONTROL.search(cell), cell
    return [dict(zip(head, line, strict=True)) for line in lines]


def quiet(text: str) -> str:
    """Text of a terminal, seen to hold no command to it."""
    assert not CONTROL.search(text), text
    return text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips of hostile names, extracted and labelled."""
    folder = tmp_path_factory.mktemp("home")
    paths = write_hostile_clips(folder / "videos")
    for k, path in enumerate(paths):
        told = {
            "id": str(k), "extractor_key": "TikTok", "like_count": (k * 7) % 30,
            "view_count": 100 + k, "timestamp": NOW - 86400 * k, "epoch": NOW,
            "uploader": ["=cmd|' /C calc'!A0", "All", "<b>x</b>|\x1b[31m\n## y"][k % 3],
            "uploader_id": str(k % 3),
        }  # fmt: skip
        if len(os.fsencode(path.name)) < 240:
            path.with_name(path.stem + ".info.json").write_text(json.dumps(told))
    tiny_pack(folder / "pack")
    done = pipeline(folder, "extract", "videos", "--pack", "pack", "--workers", "1")
    quiet(done.stdout + done.stderr)
    done = pipeline(folder, "labels", "from-info", "videos")
    quiet(done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="module")
def fitted(home: Path) -> dict[str, Any]:
    """What is said of a fit to the hostile clips; its run is home/run."""
    settings = ["epochs=1", "batch_size=8", "model.channels=2", "bootstrap=100", "refit=false"]
    settings = [part for setting in settings for part in ("--set", setting)]
    run = pipeline(home, "fit", "--normalise", "rank", "--run", "run", *settings, "--json")
    assert "name no clip" not in run.stderr and "3 of 30 clips" in run.stderr
    return dict(json.loads(run.stdout))


def test_every_file_is_a_clip_of_the_store(home: Path) -> None:
    opened = store.open(home / "features.store")
    records = list(opened.records())
    assert {str(record.status) for record in records} == {"ok"}
    assert len(records) == 30
    for record in records:
        store.check_clip_id(record.clip)
        assert record.clip.isprintable()
    assert store.verify(home / "features.store").ok
    quiet(pipeline(home, "store", "digest", "features.store").stdout)


def test_labels_fit_score_and_every_table(home: Path, fitted: dict[str, Any]) -> None:
    ids = {record.clip for record in store.open(home / "features.store").records()}
    labels = rows_of(home / "labels.csv")
    left_out = rows_of(home / "labels-left-out.csv")
    assert len(labels) == 27 and len(left_out) == 3  # names too long for a file beside them
    assert {unguard(r["clip"]) for r in labels} | {unguard(r["file"]) for r in left_out} == ids

    assert fitted["raw_score"]["test"]["n"] == fitted["test"]["n"]
    assert {unguard(r["clip"]) for r in rows_of(home / "run" / "predictions.csv")} < ids
    rows_of(home / "run" / "split.csv")

    scored = pipeline(home, "score", "videos", "--run", "run", "--pack", "pack", "--workers", "1",
                      "--store", "features.store", "--per-frame", "frames")  # fmt: skip
    quiet(scored.stdout + scored.stderr)
    rows = rows_of(home / "scores.csv")
    assert {unguard(row["clip"]) for row in rows} == ids
    assert all(float(row["score"]) for row in rows)
    written = [path for path in (home / "frames").rglob("*") if path.is_file()]
    assert len(written) == len(rows) == 30
    for path in written:  # below the folder, by names that any system takes
        assert len(rows_of(path)) == 6 and path.resolve().is_relative_to(home / "frames")
        assert path.name.isprintable() and not set('<>:"|?*\\') & set(path.name)


def test_the_report_of_a_run(home: Path, fitted: dict[str, Any]) -> None:
    done = pipeline(home, "report", "--run", "run", "--videos", "videos", "--store",
                    "features.store")  # fmt: skip
    quiet(done.stdout + done.stderr)
    assert "warning" not in done.stderr  # every file is found
    text = (home / "report.html").read_text("utf-8")
    assert not CONTROL.search(text) and "data:image/jpeg" in text
    assert not re.search(r"<script>alert|<img src=x|<b>x", text)
    with running() as browser:
        seen = Watched(browser, home / "report.html")
        assert seen.page.title() == "2stcn: report of a run"
        assert seen.page.locator("#best .card .won img").count() > 2
        assert seen.complaints == [] and seen.outside() == []


def test_overlay_and_live_of_every_clip(home: Path, fitted: dict[str, Any]) -> None:
    for source in find_clips([home / "videos"]):
        out = home / "drawn.mp4"
        assert overlay(source.clip, source.path, home / "features.store", out) == 6
    paths = write_hostile_clips(home / "again", 3)
    run = LiveOptions("", home / "run", home / "live.mp4", str(home / "pack"), store=home / "kept")
    flat = [path for path in paths if path.parent == paths[0].parent]  # below it, names come again
    for path in flat:
        assert live(replace(run, source=str(path))).frames == 3
    kept = [record.clip for record in store.open(home / "kept").records()]
    assert len(kept) == len(flat) and all(clip.isprintable() for clip in kept)
    (odd,) = (home / "videos").glob("two\n*.mp4")
    for args in (
        ["overlay", str(odd)],  # which finds the clip by the file's own name
        ["live", "--source", str(odd), "--run", "run", "--pack", "pack", "--out", "l.mp4"],
    ):
        done = pipeline(home, *args)
        quiet(done.stdout + done.stderr)


def test_evaluation_and_its_report(home: Path) -> None:
    done = pipeline(home, "evaluate", "--models", "meanpool", 
                    "--normalise", "zscore", "--group", "clip", "--folds", "2", "--repeats", "1",
                    "--set", "bootstrap=100")  # fmt: skip
    quiet(done.stdout + done.stderr)
    assert "scores as they are" in done.stdout
    found = rows_of(home / "evaluation" / "tables.csv")
    assert {unguard(row["subset"]) for row in found} == {
        "All", "All (subset)", "=cmd|' /C calc'!A0", "<b>x</b>|%1B[31m ## y",
    }  # fmt: skip
    assert {row["target"] for row in found} == {"target", "raw score"}
    assert len(rows_of(home / "evaluation" / "predictions.csv")) == len(
        rows_of(home / "labels.csv")
    )
    text = (home / "evaluation" / "report.md").read_text()
    assert "<b>" not in text and r"\<b\>x\</b\>\|%1B\[31m \#\# y" in text


def test_export_stays_below_its_folder(home: Path) -> None:
    for form in ("csv", "npz"):
        out = home / f"export-{form}" / "inside"
        done = pipeline(home, "store", "export", "features.store", "--to", form, "--out", str(out))
        quiet(done.stdout + done.stderr)
        assert [p.name for p in out.parent.iterdir()] == ["inside"]
        assert sum(p.suffix == f".{form}" for p in out.rglob("*")) == 30
    back = home / "back.store"
    pipeline(home, "store", "import", str(home / "export-csv" / "inside"), "--from", "csv",
             "--store", str(back))  # fmt: skip
    ids = {record.clip for record in store.open(home / "features.store").records()}
    assert {record.clip for record in store.open(back).records()} == ids
    for path in (home / "export-csv" / "inside").rglob("*.csv"):
        rows_of(path)


def test_messages_name_files_without_commanding_the_terminal(home: Path) -> None:
    odd = "\x1b[31m[/red]:smile:\u202e"
    for args in (["extract", odd], ["fit", "--labels", odd]):
        said = quiet(pipeline(home, *args, code=2).stderr)
        assert "%1B[31m[/red]:smile:%E2%80%AE" in said
