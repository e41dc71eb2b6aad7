import subprocess
import sys

import pytest

import store
from store.exchange import export
from store.making import partial_folder
from store.merge import merge
from tests.store import store_clips as clips

PROGRAM = """
import os, sys
from pathlib import Path
from store.making import partial_folder
with partial_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    if sys.argv[2] == "dies":
        os._exit(9)
    print(folder.name, flush=True)
    input()
"""


def others(target, how):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, target, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_dead_runs_left_goes_and_nothing_else(tmp_path):
    target = tmp_path / "[a].store"
    assert others(target, "dies").wait() == 9
    mine = [tmp_path / "[a].store.partial-x", tmp_path / ".a.store.partial-y"]
    for folder in mine:
        folder.mkdir()
    assert len(list(tmp_path.glob(".[[]a*"))) == 1
    alive = others(target, "lives")
    name = alive.stdout.readline().strip()
    with partial_folder(target) as folder:
        names = {p.name for p in tmp_path.iterdir()}
        assert names == {name, folder.name, *(f.name for f in mine)}
    alive.communicate("\n")
    assert {p.name for p in tmp_path.iterdir()} == {f.name for f in mine}


@pytest.mark.parametrize("act", ["merge", "export"])
def test_merging_and_exporting_clean_up(tmp_path, act):
    rows = clips.rows(3)
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        w.append(clips.record("a", rows), rows)
    out = tmp_path / "out"
    assert others(out, "dies").wait() == 9
    if act == "merge":
        merge(out, [tmp_path / "a.store"])
    else:
        with store.open(tmp_path / "a.store") as opened:
            export(opened, "npz", out)
    assert {p.name for p in tmp_path.iterdir()} == {"a.store", "out"}
