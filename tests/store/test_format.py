"""FORMAT.md is enough: this program knows zarr, sqlite3 and that page, and nothing of ours."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import store
from store import crop_index
from store.index_schema import SCHEMA
from store.records import COLUMNS
from tests.store import store_clips as clips

FORMAT = (Path(store.__file__).parent / "FORMAT.md").read_text("utf-8")

READER = r"""
import hashlib, json, sqlite3, sys
import numpy, zarr

path, clip, track, out = sys.argv[1:]
assert not any(name.split(".")[0] == "store" for name in sys.modules)
db = sqlite3.connect(path + "/index.sqlite")
db.execute("BEGIN")
meta = dict(db.execute("SELECT key, value FROM meta"))
assert int(meta["format_version"]) <= 1
start, frames, sha = db.execute(
    "SELECT start, frames, rows_sha256 FROM clip WHERE clip = ? AND track = ?", (clip, int(track))
).fetchone()
tracks = db.execute(
    "SELECT track, rows_sha256 FROM clip WHERE clip = ? AND start IS NOT NULL ORDER BY track",
    (clip,),
).fetchall()
db.rollback()
names = ["embedding", "appearance", "landmark", "timestamp", "box", "score", "valid"]
group = zarr.open_group(path + "/arrays.zarr", mode="r")
rows = {name: group[name][start : start + frames] for name in names}
assert group.attrs["generation"] == int(meta["generation"])
sha256 = hashlib.sha256()
for name in names:
    shape = "x".join(str(n) for n in rows[name].shape)
    sha256.update(f"{name} {rows[name].dtype} {shape}\n".encode())
    sha256.update(rows[name].tobytes())
assert sha256.hexdigest() == sha
digest = hashlib.sha256("".join(f"{t} {s}\n" for t, s in tracks).encode()).hexdigest()
numpy.savez(out, digest=digest, **rows)
"""


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_program_that_follows_the_page_reads_a_clip(tmp_path, dtype):
    path, made = tmp_path / "a.store", [clips.rows(n, seed=n) for n in (5, 30, 11)]
    with store.Writer(path, clips.PROVENANCE, dtype, layout=clips.TINY) as w:
        w.append(clips.record("x", made[0]), made[0])
        w.append(clips.record("day 1/ü.mp4", made[0]), made[0])
        w.append(clips.record("day 1/ü.mp4", made[1], track=1), made[1])
        w.flush()
        w.append(clips.record("x", made[2]), made[2], replace=True)
    program = tmp_path / "reader.py"
    program.write_text(READER, "utf-8")
    subprocess.run(
        [sys.executable, "-I", program, path, "day 1/ü.mp4", "1", tmp_path / "out.npz"],
        check=True,
        cwd=tmp_path,
    )
    with np.load(tmp_path / "out.npz") as read:
        found = dict(read)
    assert str(found.pop("digest")) == dict(store.digest(path))["day 1/ü.mp4"]
    assert clips.same(found, clips.stored(made[1], dtype))


def test_the_page_names_every_array_table_and_column():
    for spec in store.array_specs():
        tail = "".join(f", {d}" for d in spec.tail)
        assert f"| `{spec.name}` | (N{tail or ','}) |" in FORMAT
    assert "`crop`, (M, S, S, 3) uint8" in FORMAT
    for table in re.findall(r"CREATE TABLE (\w+)", "".join([SCHEMA, *crop_index.SCHEMA])):
        assert f"**`{table}`**" in FORMAT
    section = FORMAT.split("**`clip`**")[1].split("Row ranges")[0]
    first_column = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert tuple(re.findall(r"`(\w+)`", " ".join(first_column))) == COLUMNS


def test_columns_stand_in_the_order_in_which_the_journal_writes_them(tmp_path):
    table = SCHEMA.split("CREATE TABLE clip (")[1].split("PRIMARY KEY")[0]
    assert tuple(re.findall(r"(\w+) (?:TEXT|INTEGER|REAL)", table)) == COLUMNS
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        rows = clips.rows(2)
        w.append(clips.record("a", rows), rows)
        (text,) = w._index.one("SELECT record FROM pending")
        assert dict(zip(COLUMNS, json.loads(text), strict=True))["clip"] == "a"


CROP_READER = r"""
import hashlib, json, sqlite3, struct, sys
import numpy, zarr

path, clip, out = sys.argv[1:]
db = sqlite3.connect(path + "/index.sqlite")
size = int(dict(db.execute("SELECT key, value FROM meta"))["crop_size"])
start, crops, frames, sha = db.execute(
    "SELECT start, crops, frames, crops_sha256 FROM crop WHERE clip = ? AND track = 0", (clip,)
).fetchone()
(rows,) = db.execute(
    "SELECT rows_sha256 FROM clip WHERE clip = ? AND track = 0", (clip,)
).fetchone()
frames = json.loads(frames)
images = zarr.open_group(path + "/arrays.zarr", mode="r")["crop"][start : start + crops]
assert images.shape == (len(frames), size, size, 3) and images.dtype == "uint8"
sha256 = hashlib.sha256(f"crop uint8 {crops}x{size}x{size}x3\n".encode())
sha256.update(struct.pack(f"<{crops}q", *frames) + images.tobytes())
assert sha256.hexdigest() == sha
digest = hashlib.sha256(f"0 {rows} {sha}\n".encode()).hexdigest()
numpy.savez(out, digest=digest, frames=frames, images=images)
"""


def test_a_program_that_follows_the_page_reads_crops(tmp_path):
    path = tmp_path / "a.store"
    made = clips.with_crops(clips.rows(9, seed=1), 4)
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY, crop_size=clips.CROP) as w:
        for name in "ab":
            w.append(clips.record(name, made), made)
    program = tmp_path / "reader.py"
    program.write_text(CROP_READER, "utf-8")
    command = [sys.executable, "-I", program, path, "b", tmp_path / "out.npz"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as read:
        assert clips.same_crops((read["frames"], read["images"]), made)
        assert str(read["digest"]) == dict(store.digest(path))["b"]
