import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import store
from store import durable
from store.errors import StoreError, StoreWriteError
from tests.store import store_clips as clips


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a"
    durable.write_file(path, b"old")

    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(OSError, match="No space"):
                durable.write_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_a_file_of_parts_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    durable.write_file(path, iter([b"old ", np.arange(3, dtype=np.uint8)]))
    assert path.read_bytes() == b"old \0\1\2"

    def breaking_off():
        yield b"new"
        raise ValueError("the next part is damaged")

    with pytest.raises(ValueError, match="damaged"):
        durable.write_file(path, breaking_off())
    assert path.read_bytes() == b"old \0\1\2"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_is_written_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (done.append(n), r(*a))[1])
    durable.write_file(tmp_path / "a", b"x")
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OSError(errno.ENOSPC, "No space left"), StoreWriteError, "the disk is full"),
        (OSError(errno.EDQUOT, "Quota"), StoreWriteError, "the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), StoreWriteError, "disk is full"),
        (sqlite3.OperationalError("disk I/O error"), StoreWriteError, "disk I/O error"),
        (PermissionError(errno.EACCES, "Permission denied"), StoreWriteError, "cannot write"),
        (ValueError("bad\nchecksum"), StoreError, "damaged .* bad checksum"),
    ],
)
def test_refusals_become_one_line(tmp_path, error, kind, text):
    with pytest.raises(kind, match=text) as caught, durable.reporting(tmp_path, "doing a thing"):
        raise error
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


PROGRAM = """
import resource, sys
import store, store_clips as clips

w = store.Writer(sys.argv[1], clips.PROVENANCE)
w.append(clips.record("small", clips.rows(3)), clips.rows(3))
w.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
big = clips.rows(2000)
try:
    w.append(clips.record("big", big), big)
except store.StoreWriteError as error:
    print(error)
w.close()
"""


def test_the_system_really_refuses_to_write_more(tmp_path):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "a.store"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{tmp_path / 'a.store'}: ")
    assert len(done.stdout.splitlines()) == 1
    s = store.open(tmp_path / "a.store")
    assert [r.clip for r in s.records()] == ["small"]
    assert clips.same(s.clip("small"), clips.stored(clips.rows(3)))
    assert store.verify(s.path).ok
