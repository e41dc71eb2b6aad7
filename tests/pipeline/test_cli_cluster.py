"""Parts, several stores and the cluster as a user types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import store
from tests.testing.clips import moving_square
from tests.testing.command import ENV, called
from tests.testing.packs import tiny_pack
from tests.testing.runs import QUICK, labelled_videos

PARTS = ["features.1-of-2.store", "features.2-of-2.store"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose clips were extracted whole on a cluster, and in two parts."""
    folder = tmp_path_factory.mktemp("home")
    labelled_videos(folder / "videos")
    (folder / "videos/labels.csv").rename(folder / "labels.csv")
    tiny_pack(folder / "pack")
    cluster = ["--scheduler", "local", "--workers", "2"]
    done = called(folder, "extract", "videos/", "--pack", "pack", *cluster)
    assert "dashboard: http://" in done.stderr
    assert "with 2 workers" in done.stdout
    for part in ("1/2", "2/2"):
        called(folder, "extract", "videos/", "--pack", "pack", "--part", part)
    return folder


def test_parts_make_up_the_whole(home: Path) -> None:
    held = [{r.clip for r in store.open(home / part).records()} for part in PARTS]
    assert all(held) and not held[0] & held[1]
    assert len(held[0] | held[1]) == 24
    whole = called(home, "store", "digest", "features.store").stdout
    assert len(whole.splitlines()) == 24
    assert called(home, "store", "digest", *PARTS).stdout == whole


def test_info_and_verify_of_several(home: Path) -> None:
    told = json.loads(called(home, "store", "info", *PARTS, "--json").stdout)
    assert told["store"] == PARTS
    assert told["frames"] == 240 and told["clips"] == {"ok": 24}
    assert told["arrays"]["embedding"]["shape"] == [240, 512]
    sizes = [json.loads(called(home, "store", "info", p, "--json").stdout)["bytes"] for p in PARTS]
    assert told["bytes"] == sum(sizes)
    report = json.loads(called(home, "store", "verify", *PARTS, "--json").stdout)
    assert report["ok"] and report["clips"] == 24 and report["rows"] == 240
    done = called(home, "store", "verify", *PARTS)
    assert "whole" in done.stdout and all(part in done.stdout for part in PARTS)


def test_fit_reads_several_stores_as_one(home: Path) -> None:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    stores = [part for name in PARTS for part in ("--store", name)]
    called(home, "fit", *stores, *settings, "--run", "run")
    assert json.loads((home / "run/provenance.json").read_text())["store_path"] == PARTS
    clips = {line.split(",")[0] for line in (home / "run/split.csv").read_text().splitlines()[1:]}
    assert clips == {f"{i:02d}.mp4" for i in range(24)}


def test_an_explicit_store_is_taken_as_it_is(home: Path, tmp_path: Path) -> None:
    given = ["--part", "1/2", "--store", str(tmp_path / "mine.store"), "--dry-run", "--json"]
    told = json.loads(called(home, "extract", "videos", "--pack", "pack", *given).stdout)
    assert set(told["extract"]) == {r.clip for r in store.open(home / PARTS[0]).records()}
    done = called(home, "extract", "videos", "--part", "1/2", "--dry-run", "--json").stdout
    assert not json.loads(done)["extract"]  # the part's own store holds them


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["extract", "videos", "--part", "3/2"], "--part 3/2"),
        (["extract", "videos", "--pack", "pack", "--scheduler", "nonsense"], "nonsense"),
        (["store", "info", "features.store", PARTS[0]], "is in two stores"),
        (["fit", "--store", PARTS[0], "--store", "no.store"], "no.store"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(
    home: Path, args: list[str], expected: str
) -> None:
    done = called(home, *args, code=2)
    assert expected in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


def test_no_cluster_at_the_address_ends_with_2_and_leaves_nothing(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        args = ["--pack", "pack", "--scheduler", address, "--store", "none.store"]
        done = called(home, "extract", "videos", *args, code=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert address in line and "no Dask scheduler" in line
    assert not (home / "none.store").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_cluster_of_our_own(
    home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C goes to every process of the terminal's group; SIGTERM to ours alone."""
    many = tmp_path / "videos"
    many.mkdir()
    moving_square(many / "0.mp4", frames=100, step=(1, 1))
    for i in range(1, 512):  # more than any machine gets through before it is told to stop
        os.link(many / "0.mp4", many / f"{i}.mp4")
    command = [sys.executable, "-m", "pipeline", "extract", "videos", "--pack", str(home / "pack")]
    process = subprocess.Popen(
        [*command, "--scheduler", "local", "--workers", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until the first clips are in
        try:
            if any(True for _ in store.open(tmp_path / "features.store").records()):
                break
        except store.StoreError:
            pass
        if "pending" in _tables(tmp_path):
            break
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert process.returncode == (130 if number == signal.SIGINT else 143), errors
    assert "Traceback" not in errors
    assert store.verify(tmp_path / "features.store").ok
    assert 0 < len(store.open(tmp_path / "features.store")) < 512
    assert not _group(process.pid)


def _tables(folder: Path) -> list[str]:
    """Return ["pending"] as soon as a finished clip waits in the journal."""
    import sqlite3

    path = folder / "features.store/index.sqlite"
    if not path.exists():
        return []
    index = sqlite3.connect(path)
    try:
        (waiting,) = index.execute("SELECT COUNT(*) FROM pending").fetchone()
    except sqlite3.OperationalError:
        return []
    finally:
        index.close()
    return ["pending"] if waiting else []


def _group(number: int) -> list[str]:
    """Return the processes that are left of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True)
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [str(parts) for parts in lines if parts[0] == str(number) and parts[1][0] != "Z"]
