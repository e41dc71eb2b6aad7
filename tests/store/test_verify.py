import json
import re
import shutil
import sqlite3

import numpy as np
import pytest
import zarr

import store
from store.repair import repair
from tests.store import store_clips as clips


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i, n in enumerate((6, 10, 5)):
            rows = clips.rows(n, seed=i)
            w.append(clips.record(f"{i}", rows), rows)
        w.append(clips.record("bad", None), None)
        w.append(clips.record("empty", clips.no_face(2)), clips.no_face(2))
    return path


@pytest.fixture
def path(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "a.store")
    return tmp_path / "a.store"


def sql(path, *statements):
    db = sqlite3.connect(path / "index.sqlite")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_a_sound_store(path):
    report = store.verify(path)
    assert report.ok
    assert (report.problems, report.notes) == ([], [])
    assert (report.clips, report.rows) == (5, 23)
    assert report.by_status == {"ok": 3, "no_face": 1, "failed": 1}


def test_blocks_smaller_than_clips_find_the_same(path, monkeypatch):
    monkeypatch.setattr("store.scan.BLOCK_ROWS", 4)
    assert store.verify(path).ok
    group = zarr.open(path / "arrays.zarr", mode="r+")
    group["timestamp"][11] = group["timestamp"][10]  # rows 6 to 16 are clip 1; 11 is its frame 5
    assert store.verify(path).problems == [
        "clip '1', track 0: timestamp: expected strictly increasing seconds, "
        "got others in 1 frame (first: frame 5)",
        "clip '1', track 0: the hash of its rows is not the one in the index",
    ]


PLANTED = [
    ("embedding", 7, np.nan, "'1'.*embedding: expected finite values where valid"),
    ("appearance", 0, np.inf, "'0'.*appearance: expected finite values where valid"),
    ("embedding", 7, 0.25, "'1'.*hash of its rows"),
    ("embedding", 21, 0.0, "'empty'.*embedding: expected NaN where not valid"),
    ("timestamp", 8, 0.0, "'1'.*timestamp: expected strictly increasing"),
    ("timestamp", 8, np.nan, "'1'.*timestamp: expected finite"),
    ("score", 16, 1.25, "'2'.*score: expected values from 0 to 1"),
    ("box", 16, [5, 5, 4, 6], "'2'.*box: expected x1 < x2"),
    ("landmark", 16, 201.0, "'2'.*landmark: expected points within -1 to 2 times"),
    ("valid", 21, True, "'empty'.*expected 0 valid frames, got 1"),
]


@pytest.mark.parametrize(("name", "row", "value", "text"), PLANTED, ids=lambda v: str(v)[:12])
def test_planted_rows_are_found(path, name, row, value, text):
    zarr.open(path / "arrays.zarr", mode="r+")[name][row] = value
    report = store.verify(path)
    assert not report.ok
    assert any_match(report.problems, text)
    named = {problem.split("'")[1] for problem in report.problems}
    assert named == {text.split("'")[1]}


def any_match(lines, pattern):
    return any(re.search(pattern, line) for line in lines)


INDEX = [
    ("UPDATE clip SET start = 5 WHERE clip = '1'", "clip '1', track 0: its rows overlap"),
    ("DELETE FROM clip WHERE clip = '1'", "expected 23 rows, got 13 owned by clips and 0"),
    ("UPDATE clip SET start = 90 WHERE clip = '1'", "clip '1'.*lie outside the 23 committed"),
    ("UPDATE clip SET frames = 9 WHERE clip = '1'", "expected 23 rows, got 22 owned"),
    ("UPDATE clip SET valid_frames = 1 WHERE clip = '1'", "clip '1'.*expected 1 valid frames"),
    ("UPDATE clip SET status = 'odd' WHERE clip = '1'", "clip '1': 'odd' is not a valid Status"),
    ("UPDATE clip SET status = 'failed' WHERE clip = '1'", "'1'.*failed expects no frames"),
    ("UPDATE clip SET details = '{' WHERE clip = '1'", "clip '1': Expecting property name"),
    ("UPDATE clip SET session = 7 WHERE clip = '1'", "clip '1'.*session 7 is not in the index"),
    ("UPDATE clip SET clip = '../1' WHERE clip = '1'", r"'\.\./1' holds the path component"),
    ("UPDATE clip SET rows_sha256 = '' WHERE clip = '1'", "clip '1'.*hash of its rows"),
    ("UPDATE clip SET frames = 'x' WHERE clip = '1'", "clip '1', frames: expected an integer of"),
    ("UPDATE clip SET frames = -3 WHERE clip = '1'", "clip '1', frames: .* 0 or more, got -3"),
    ("UPDATE clip SET frames = 0 WHERE clip = '1'", "clip '1', valid_frames: .* from 0 to frames"),
    ("UPDATE clip SET frames = 1 << 40 WHERE clip = '1'", "clip '1'.*lie outside the 23 committed"),
    ("UPDATE clip SET start = 'x' WHERE clip = '1'", "clip '1', start: expected .*, got 'x'"),
    ("UPDATE clip SET start = -4 WHERE clip = '1'", "clip '1', start: expected .*, got -4"),
    ("UPDATE clip SET start = 6.5 WHERE clip = '1'", r"clip '1', start: expected .*, got 6\.5"),
    ("UPDATE clip SET start = NULL WHERE clip = '1'", "clip '1'.*status ok with first row None"),
    ("UPDATE clip SET details = 'null' WHERE clip = '1'", "clip '1', details: expected a JSON obj"),
    ("UPDATE clip SET details = '[1]' WHERE clip = '1'", "clip '1', details: expected a JSON obj"),
    ("UPDATE clip SET details = x'00' WHERE clip = '1'", "clip '1', details: expected text"),
    ("UPDATE clip SET status = x'00' WHERE clip = '1'", "clip '1', status: expected text"),
    ("UPDATE clip SET clip = x'31' WHERE clip = '1'", "clip b'1', clip: expected text"),
    ("UPDATE clip SET width = 'wide' WHERE clip = '1'", "clip '1', width: expected an integer"),
    ("UPDATE clip SET fps = 'x' WHERE clip = '1'", "clip '1', fps: expected a number, got 'x'"),
    ("UPDATE clip SET track = -1 WHERE clip = '1'", "clip '1', track: .* 0 or more, got -1"),
    ("UPDATE clip SET track = 'x' WHERE clip = '1'", "clip '1', track: .* 0 or more, got 'x'"),
    ("UPDATE clip SET mtime_ns = 'q' WHERE clip = '1'", "clip '1', mtime_ns: expected an integer"),
    ("UPDATE meta SET value = '-4' WHERE key = 'unowned'", "got 23 owned by clips and -4 left"),
    ("UPDATE meta SET value = '4' WHERE key = 'unowned'", "got 23 owned by clips and 4 left"),
    ("UPDATE session SET provenance = '{'", "session 1, provenance: expected a JSON object"),
    ("UPDATE session SET provenance = '[]'", "session 1, provenance: expected a JSON object"),
    ("UPDATE meta SET value = '30' WHERE key = 'rows'", "embedding: expected 30 rows, got 23"),
    ("UPDATE meta SET value = '4' WHERE key = 'generation'", r"arrays\.zarr is missing or not"),
]


META = [
    ("UPDATE meta SET value = 'x' WHERE key = 'rows'", r"meta\.rows: expected .*, got 'x'"),
    ("UPDATE meta SET value = '-1' WHERE key = 'rows'", r"meta\.rows: expected .* 0 or more"),
    ("DELETE FROM meta WHERE key = 'rows'", r"meta\.rows is missing"),
    ("DELETE FROM meta WHERE key = 'unowned'", r"meta\.unowned is missing"),
    ("UPDATE meta SET value = 'x' WHERE key = 'generation'", r"meta\.generation: expected"),
    ("INSERT INTO meta VALUES ('next_generation', '1')", r"meta\.next_rows is missing"),
    ("INSERT INTO meta VALUES ('crop_size', '0')", r"meta\.crop_size: expected .* 1 or more"),
]


@pytest.mark.parametrize(("statement", "text"), META)
def test_a_damaged_meta_is_refused_in_one_line_by_all(path, statement, text):
    sql(path, statement)
    for act in (store.verify, store.open, repair, lambda p: store.Writer(p, clips.PROVENANCE)):
        with pytest.raises(store.StoreFormatError, match=text) as caught:
            act(path)
        assert str(caught.value).startswith(f"{path}: index.sqlite: ")


def test_a_record_of_the_journal_that_is_damaged_is_found(path):
    rows = clips.rows(3)
    w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
    w.append(clips.record("9", rows), rows)  # reaches row 24: a flush
    w.append(clips.record("new", rows), rows)
    w._abandon()
    assert store.verify(path).ok
    sql(path, "UPDATE pending SET record = '[]'")
    assert any_match(store.verify(path).problems, "clip 'new'.*journal.*record of 0 values")
    sql(path, "UPDATE pending SET record = 'x'")
    assert any_match(store.verify(path).problems, "clip 'new'.*journal.*Expecting value")
    with pytest.raises(store.StoreFormatError, match="journal"):
        store.Writer(path, clips.PROVENANCE).close()
    assert list(repair(path).clips) == ["new"]
    assert store.verify(path).ok


@pytest.mark.parametrize(("statement", "text"), INDEX, ids=lambda v: str(v)[12:30])
def test_planted_index_rows_are_found(path, statement, text):
    sql(path, statement)
    assert any_match(store.verify(path).problems, text)


def shard(path, name="appearance", number=1):
    return path / "arrays.zarr" / name / "c" / str(number) / "0"


def test_corrupted_bytes_name_the_clips_and_only_those(path):
    data = bytearray(shard(path).read_bytes())  # rows 8 to 16: clip 1
    data[len(data) // 4] ^= 1
    shard(path).write_bytes(data)
    problems = store.verify(path).problems
    assert {p.split("'")[1] for p in problems} == {"1"}
    assert any_match(problems, "appearance: cannot be read: .*checksum")
    assert all("\n" not in p for p in problems)


@pytest.mark.parametrize("keep", [0, 50, 0.5, 0.99])
def test_a_shard_cut_short_is_found(path, keep):
    data = shard(path).read_bytes()
    shard(path).write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    problems = store.verify(path).problems
    assert {p.split("'")[1] for p in problems} == {"1"}


def test_a_shard_that_is_gone_is_not_taken_for_missing_faces(path):
    shard(path, number=2).unlink()
    assert any_match(store.verify(path).problems, "'empty'.*appearance/c/2/0 is missing")


def test_chunks_without_any_face_are_written_too(tmp_path):
    path = tmp_path / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        w.append(clips.record("none", clips.no_face(20)), clips.no_face(20))
    assert store.verify(path).ok
    shard(path).unlink()
    assert any_match(store.verify(path).problems, "'none'.*appearance/c/1/0 is missing")


@pytest.mark.parametrize("text", [b"", b"{", b"{}"])
def test_damaged_metadata_is_a_problem_and_no_traceback(path, text):
    (path / "arrays.zarr" / "box" / "zarr.json").write_bytes(text)
    assert any_match(store.verify(path).problems, r"arrays\.zarr: cannot be opened")


def test_an_array_of_another_width_or_length(path):
    meta = path / "arrays.zarr" / "score" / "zarr.json"
    text = json.loads(meta.read_text())
    meta.write_text(json.dumps({**text, "shape": [20]}))
    assert any_match(store.verify(path).problems, "score: expected 23 rows, got 20")
    meta.write_text(json.dumps({**text, "shape": [25]}))
    report = store.verify(path)
    assert report.ok
    assert any_match(report.notes, "past the last commit")


def test_a_damaged_index_is_one_line(path):
    index = path / "index.sqlite"
    data = bytearray(index.read_bytes())
    data[16384 * 2 : 16384 * 4] = b"\xff" * 16384 * 2
    index.write_bytes(data)
    try:
        lines = store.verify(path).problems
    except store.StoreFormatError as error:
        lines = [str(error)]
    assert any_match(lines, r"index\.sqlite")
    assert all("\n" not in line for line in lines)


def test_a_store_at_work_gives_notes(path):
    rows = clips.rows(3)
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        w.append(clips.record("first", rows), rows)  # reaches row 24: a flush
        w.append(clips.record("new", rows), rows)
        w.append(clips.record("0", rows), rows, replace=True)
        report = store.verify(path)
        assert report.ok
        assert any_match(report.notes, "being written by process")
        assert any_match(report.notes, r"2 clips \(6 rows\) wait in the journal")
        w.flush()
        assert any_match(store.verify(path).notes, "6 rows of replaced or removed clips")
        assert store.verify(path).ok
    assert store.verify(path).notes == []
