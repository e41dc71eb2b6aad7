"""The store's commands as a user types them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import store
from store.companion import identity, write_companion
from tests.store import store_clips as clips
from tests.testing.command import ENV, called


def make(path: Path, *names: str) -> Path:
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i, name in enumerate(names):
            w.append(clips.record(name, clips.rows(5, seed=i)), clips.rows(5, seed=i))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make(tmp_path / "a.store", "a.mp4", "d/b.mp4")
    return tmp_path


def digest(home: Path, name: str) -> list[tuple[str, str]]:
    return list(store.digest(home / name))


def test_forget_with_yes_and_without(home: Path) -> None:
    before = digest(home, "a.store")
    done = called(home, "store", "forget", "a.store", "a.mp4", code=2)
    assert "no terminal to ask on" in done.stderr and "--yes" in done.stderr
    done = called(home, "store", "forget", "a.store", "nobody.mp4", "--yes", code=2)
    assert "holds no clip 'nobody.mp4'; nothing was changed" in done.stderr
    assert digest(home, "a.store") == before
    make(home / "other.store", "c.mp4")  # another store's arrays are none of its business
    for name, rows in (("a.store", 10), ("other.store", 5)):
        with store.open(home / name) as opened:
            created = {**identity(opened)[0], "created": name} if name != "a.store" else None
            made = write_companion(home / f"{name[0]}.any", opened, "tracks", ["x"], iter(()))
            assert made.rows == rows
        if created:  # both were made in one second
            about = home / "o.any" / "about.json"
            about.write_text(json.dumps({**made.about, "stores": [created]}))
    (home / "about.json").write_text("{}")
    done = called(home, "store", "forget", "a.store", "a.mp4", "--yes", "--json")
    beside = [str(home / "a.any")]
    assert json.loads(done.stdout) == {"clips": ["a.mp4"], "frames": 5, "companions": beside}
    assert digest(home, "a.store") == before[1:]
    done = called(home, "store", "forget", "a.store", "d/b.mp4", "--yes")
    assert "a.any: was made from this store and may still hold rows" in done.stderr
    assert "o.any" not in done.stderr


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 2, 2), (b"y\n", 0, 1)])
def test_forget_asks_on_a_terminal(home: Path, answer: bytes, code: int, left: int) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command = [sys.executable, "-m", "pipeline", "store", "forget", "a.store", "a.mp4"]
    done = subprocess.run(command, cwd=home, stdin=theirs, capture_output=True, text=True, env=ENV)
    os.close(ours)
    os.close(theirs)
    assert "Erase 1 clips from a.store for good?" in done.stderr
    assert (done.returncode, len(digest(home, "a.store"))) == (code, left)


def test_verify_repair(home: Path) -> None:
    zarr.open(home / "a.store/arrays.zarr", mode="r+")["embedding"][0] = np.float16(0.5)
    called(home, "store", "verify", "a.store", code=1)
    done = called(home, "store", "verify", "--repair", "a.store")
    assert "clip 'a.mp4' is marked for extraction again" in done.stderr
    assert "whole" in done.stdout
    done = called(home, "store", "verify", "--repair", "a.store", "--json")
    assert json.loads(done.stdout)["repaired"] == []


def test_forget_after_an_import_leaves_no_name(home: Path) -> None:
    make(home / "alice.store", "alice.mp4", "bob.mp4")
    called(home, "store", "export", "alice.store", "--to", "csv", "--out", "alice's")
    for path in ("alice's/alice.mp4.csv", "alice's"):
        called(home, "store", "import", path, "--from", "csv", "--store", "b.store")
    called(home, "store", "forget", "b.store", "alice.mp4", "--yes")
    assert [clip for clip, _ in digest(home, "b.store")] == ["bob.mp4"]
    files = [file for file in (home / "b.store").rglob("*") if file.is_file()]
    assert [file for file in files if b"alice" in file.read_bytes()] == []


def test_merge_and_compact(home: Path) -> None:
    make(home / "b.store", "c.mp4")
    done = called(home, "store", "merge", "all.store", "a.store", "b.store", "--json")
    assert json.loads(done.stdout) == {"store": "all.store", "tracks": 3}
    parts = digest(home, "a.store") + digest(home, "b.store")
    assert digest(home, "all.store") == sorted(parts)
    done = called(home, "store", "merge", "all.store", "a.store", code=2)
    assert "all.store: is there already" in done.stderr
    done = called(home, "store", "merge", "x.store", "a.store", "all.store", code=2)
    assert "'a.mp4' is in two stores: a.store and all.store" in done.stderr
    assert "now" in called(home, "store", "compact", "all.store").stdout


@pytest.mark.parametrize("form", ["hdf5", "npz", "csv"])
def test_export_and_import(home: Path, form: str) -> None:
    called(home, "store", "export", "a.store", "--to", form, "--out", "out")
    done = called(home, "store", "import", "out", "--from", form, "--store", "b.store", "--json")
    assert json.loads(done.stdout) == {"clips": 2, "frames": 10, "skipped": 0}
    if form != "csv":
        assert digest(home, "b.store") == digest(home, "a.store")
    names = "landmark,timestamp,score,valid"
    command = ("store", "digest", "--arrays", names)
    told = [called(home, *command, f"{x}.store").stdout for x in "ab"]
    assert told[0] == told[1] and len(told[0].splitlines()) == 2
    both = called(home, *command, "a.store", "--layer", "x", code=2)
    assert "--layer and --arrays" in both.stderr
    done = called(home, "store", "export", "a.store", "--to", form, "--out", "out", code=2)
    assert "is there already" in done.stderr
    done = called(home, "store", "import", "no", "--from", form, "--store", "b.store", code=2)
    assert "no: there is no such file or folder" in done.stderr
