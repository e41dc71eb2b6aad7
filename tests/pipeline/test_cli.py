"""The command line as a user types it, in a folder of their own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import store
from tests.testing.clips import moving_square, picture, write_video
from tests.testing.command import ENV, called, pipeline
from tests.testing.packs import tiny_pack
from tests.testing.runs import QUICK, labelled_videos


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder in which the first two lines of the README were typed, each a process."""
    folder = tmp_path_factory.mktemp("home")
    labelled_videos(folder / "videos")
    tiny_pack(folder / "pack")
    pipeline(folder, "extract", "videos/", "--pack", "pack")
    (folder / "videos/labels.csv").rename(folder / "labels.csv")
    settings = [part for setting in QUICK for part in ("--set", setting)]
    pipeline(folder, "fit", "--model", "2stcn", *settings)
    return folder


def test_extract_filled_the_default_store(home: Path) -> None:
    assert store.verify(home / "features.store").ok
    done = called(home, "extract", "videos/", "--pack", "pack", "--json")
    told = json.loads(done.stdout)
    assert told["skipped"] == 24
    assert told["clips"] == {}


def test_store_commands(home: Path) -> None:
    info = json.loads(called(home, "store", "info", "features.store", "--json").stdout)
    assert info["frames"] == 240
    assert info["arrays"]["landmark"]["shape"] == [240, 136]
    assert info["clips"] == {"ok": 24}
    assert "240 frames" in called(home, "store", "info", "features.store").stdout
    assert "whole" in called(home, "store", "verify", "features.store").stdout
    lines = called(home, "store", "digest", "features.store").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [f"{i:02d}.mp4" for i in range(24)]
    assert all(len(line.split()[1]) == 64 for line in lines)


def test_verify_leaves_with_1_on_damage(home: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.store"
    shutil.copytree(home / "features.store", damaged)
    shard = next(
        f for f in (damaged / "arrays.zarr/landmark").rglob("*") if f.stat().st_size > 5000
    )
    data = bytearray(shard.read_bytes())
    data[2000:2100] = bytes(100)
    shard.write_bytes(data)
    done = called(tmp_path, "store", "verify", "damaged.store", "--json", code=1)
    assert not json.loads(done.stdout)["ok"]


def test_fit_left_a_run(home: Path) -> None:
    (run,) = (home / "runs").iterdir()
    assert run.name.startswith("2stcn-")
    names = {"model.safetensors", "config.json", "provenance.json", "split.csv", "epochs.csv",
             "metrics.json", "predictions.csv"}  # fmt: skip
    assert names <= {f.name for f in run.iterdir()}
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"src", "src_low", "src_high", "pc", "mae", "rmse", "n"} <= set(metrics["test"])


def test_score_gives_every_file_a_row(home: Path) -> None:
    new = home / "new_videos"
    moving_square(new.joinpath("a.mp4") if new.mkdir() is None else new, frames=12)
    write_video(new / "nobody.mp4", [picture([])] * 6)
    (new / "broken.mp4").write_text("text")
    done = pipeline(home, "score", "new_videos/", "--pack", "pack")
    assert "1 of 3 clips scored" in done.stdout
    with (home / "scores.csv").open() as file:
        rows = {row["clip"]: row for row in csv.DictReader(file)}
    assert list(rows["a.mp4"]) == ["clip", "score", "status", "frames", "valid_frames",
                                   "duration_s", "message"]  # fmt: skip
    assert rows["a.mp4"]["status"] == "ok"
    assert float(rows["a.mp4"]["score"]) > 0
    assert (rows["a.mp4"]["frames"], rows["a.mp4"]["valid_frames"]) == ("12", "12")
    assert (rows["nobody.mp4"]["score"], rows["nobody.mp4"]["status"]) == ("", "no_face")
    assert rows["broken.mp4"]["status"] == "unreadable"
    assert "plain text" in rows["broken.mp4"]["message"]


def test_score_is_the_prediction_of_fit_on_the_same_clips(home: Path) -> None:
    called(
        home,
        "score",
        "videos/",
        "--pack",
        "pack",
        "--store",
        "features.store",
        "--out",
        "again.csv",
    )
    (run,) = (home / "runs").iterdir()
    with (home / "again.csv").open() as file:
        scores = {row["clip"]: float(row["score"]) for row in csv.DictReader(file)}
    with (run / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] != "val"]
    assert len(rows) >= 15
    for row in rows:  # validation clips keep what the network said before it was fitted on them too
        assert scores[row["clip"]] == pytest.approx(float(row["prediction"]), rel=1e-4)


def test_score_refuses_a_store_of_another_pack(home: Path, tmp_path: Path) -> None:
    tiny_pack(tmp_path / "other", variant="buffalo")
    one = tmp_path / "videos"
    one.mkdir()
    moving_square(one / "a.mp4", frames=5)
    other = str(tmp_path / "other.store")
    called(home, "extract", str(one), "--pack", str(tmp_path / "other"), "--store", other)
    done = called(home, "score", str(one), "--pack", "pack", "--store", other, code=2)
    assert "pack" in done.stderr
    assert "->" in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["extract", "no_such_folder"], "no_such_folder: no such file or folder"),
        (["extract", "empty"], "no videos or images found"),
        (["extract", "videos", "--pack", "no_pack"], "no_pack"),
        (["extract", "videos", "--pack", "pack", "--device", "cuda"], "--device cuda"),
        (["extract", "videos", "--pack", "pack", "--every", "2"], "every"),
        (["fit", "--store", "no.store"], "no.store"),
        (["fit", "--labels", "no.csv"], "no.csv: no such file"),
        (["fit", "--model", "nonsense"], "nonsense"),
        (["fit", "--set", "train.alhpa=1"], "train.alpha"),
        (["score", "videos", "--run", "empty"], "empty"),
        (["score", "no_such_folder", "--pack", "pack"], "no_such_folder"),
        (["score", "videos"], "--pack FOLDER"),
        (["score", "videos", "--out", "no/where.csv"], "no/where.csv"),
        (["store", "info", "no.store"], "no.store"),
        (["packs", "path", "buffalo_nothing"], "buffalo_nothing"),
        (["extract"], "Missing argument"),
        (["extract", "videos", "--device", "abacus"], "abacus"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(
    home: Path, args: list[str], expected: str
) -> None:
    (home / "empty").mkdir(exist_ok=True)
    done = called(home, *args, code=2)
    assert expected in done.stderr
    if "Usage" not in done.stderr:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(lines) == 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("clip,score\n00.mp4,high\n01.mp4,1\n", "line 2"),
        ("clip,score\n00.mp4,1\n00.mp4,2\n", "line 3"),
        ("clip,score\nnot_there.mp4,1\n", "not_there.mp4"),
        ("clip,score\n00.mp4,1\n01.mp4,2\n", "2"),
        ("name,value\n00.mp4,1\n", "clip"),
        ("", "empty"),
    ],
)
def test_labels_that_will_not_do(home: Path, tmp_path: Path, labels: str, expected: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(labels)
    done = called(home, "fit", "--labels", str(path), code=2)
    assert expected in done.stderr


def test_a_store_of_a_newer_format_is_refused(home: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.store"
    shutil.copytree(home / "features.store", newer)
    index = sqlite3.connect(newer / "index.sqlite")
    index.execute("UPDATE meta SET value = '2' WHERE key = 'format_version'")
    index.commit()
    index.close()
    done = called(tmp_path, "store", "info", "newer.store", code=2)
    assert "format 2" in done.stderr


def test_a_locked_store_names_its_holder(home: Path, tmp_path: Path, small_pack: Path) -> None:
    one = tmp_path / "videos"
    one.mkdir()
    moving_square(one / "a.mp4", frames=5)
    provenance = {"pack": {"name": "x", "fingerprint": "x"}, "recipe": {}}
    with store.Writer(tmp_path / "held.store", provenance):
        done = called(
            tmp_path,
            "extract",
            "videos",
            "--pack",
            str(small_pack),
            "--store",
            "held.store",
            code=2,
        )
    assert str(os.getpid()) in done.stderr


def test_dry_run(home: Path, tmp_path: Path) -> None:
    done = called(home, "extract", "videos", "--dry-run", "--store", "other.store", "--json")
    assert len(json.loads(done.stdout)["extract"]) == 24
    assert not (home / "other.store").exists()


def test_packs_list_names_licences(home: Path) -> None:
    listed = json.loads(called(home, "packs", "list", "--json").stdout)
    assert {"lite", "buffalo_l"} <= set(listed)
    assert "non-commercial" in listed["buffalo_l"]["licence"]


def journalled(path: Path) -> int:
    """Count the clips that are safe in a store's journal."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{path}/index.sqlite?mode=ro", uri=True)
        ) as db:
            return int(db.execute("SELECT COUNT(*) FROM pending").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_soon_and_leave_a_whole_store(
    home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    many = tmp_path / "videos"
    many.mkdir()
    moving_square(many / "0.mp4", frames=300, step=(1, 1))
    for i in range(1, 256):  # more than any machine gets through before it is told to stop
        os.link(many / "0.mp4", many / f"{i}.mp4")
    command = [sys.executable, "-m", "pipeline", "extract", "videos", "--pack", str(home / "pack")]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENV)
    deadline = time.monotonic() + 60
    while not journalled(tmp_path / "features.store") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert "Traceback" not in errors
    told = "error: interrupted; what was finished is kept, the same command goes on from there"
    assert number == signal.SIGTERM or told in errors
    assert store.verify(tmp_path / "features.store").ok
    done = {record.clip for record in store.open(tmp_path / "features.store").records()}
    left = sorted({path.name for path in many.iterdir()} - done)
    assert done and left
    for name in left[8:]:
        (many / name).unlink()
    called(tmp_path, "extract", "videos", "--pack", str(home / "pack"))
    assert store.open(tmp_path / "features.store").n_rows == (len(done) + 8) * 300
