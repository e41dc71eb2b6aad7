import pandas as pd
import pytest

import store
from store import Status, StoreError
from store.records import COLUMNS
from store.select import Choice, select
from tests.store import store_clips as clips


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("select") / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i in (7, 3, 5, 1):
            rows = clips.rows(i, seed=i)
            w.append(clips.record(f"day{i % 2}/{i}", rows, fps=10.0 * i), rows)
        w.append(clips.record("day1/5", clips.rows(2), track=1), clips.rows(2))
        w.append(clips.record("bad", None), None)
        w.append(clips.record("empty", clips.no_face(2)), clips.no_face(2))
    return path


def names(found):
    return [(r.clip, r.track) for r in found]


@pytest.fixture(params=["one", "several"])
def source(request, path):
    return store.open(path if request.param == "one" else [path])


def test_a_condition_in_sql(source):
    assert names(source.records(where="frames > 2 AND fps <= 50")) == [("day1/3", 0), ("day1/5", 0)]
    assert names(source.records(Status.OK, where="track = 1")) == [("day1/5", 1)]
    assert names(source.records(where="clip LIKE 'b%' OR start IS NULL -- a remark")) == [
        ("bad", 0)
    ]
    assert names(source.records(where="json_extract(details, '$.seed') = 2")) == []
    assert list(source.index(where="fps = 70")["clip"]) == ["day1/7"]


def test_chosen_clips_bring_all_their_tracks_in_order(source):
    wanted = ["day1/5", "nowhere", "day1/1", "day1/5"]
    expected = [("day1/1", 0), ("day1/5", 0), ("day1/5", 1)]
    assert names(source.records(subset=wanted)) == expected
    assert names(source.records(subset=iter(wanted))) == expected
    assert names(source.records(subset=[])) == []
    assert names(source.records(Status.FAILED, subset=["bad", "day1/1"])) == [("bad", 0)]
    with pytest.raises(StoreError, match="several clip ids, got the text 'day1/5'"):
        list(source.records(subset="day1/5"))


def test_many_chosen_clips(path, monkeypatch):
    everything = names(store.open(path).records())
    starts = [r.start for r in store.open(path).records_by_start()]
    monkeypatch.setattr("store.select._NAMES_AT_ONCE", 2)
    s = store.open(path)
    ids = {clip for clip, _ in everything}
    assert names(s.records(subset=ids)) == everything
    assert [x for (x,) in s.iter_rows(["start"], subset=ids, by_start=True)] == starts
    assert [x for (x,) in s.iter_rows(["clip"], subset=ids - {"day1/5"}, by_start=True)] == [
        "day1/7", "day1/3", "day1/1", "empty",
    ]  # fmt: skip


def test_tuples_are_the_fields_of_the_records(source):
    rows = list(source.iter_rows(("frames", "clip")))
    assert rows == [(r.frames, r.clip) for r in source.records()]
    owned = list(source.iter_rows(("clip", "start"), by_start=True))
    assert owned == [(r.clip, r.start) for r in source.records_by_start()]
    assert len(owned) == 6
    with pytest.raises(StoreError, match="no column 'colour'; expected one of clip, status"):
        list(source.iter_rows(["colour"]))


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("colour = 1", "no such column: colour"),
        ("frames >", "incomplete input|syntax error"),
        ("", "incomplete input|syntax error"),
        ("COUNT(*) > 1", "misuse of aggregate"),
        ("1) OR (1", "syntax error"),
        ("1 ORDER BY frames", "syntax error"),
        ("1 LIMIT 1", "syntax error"),
        ("1; DELETE FROM clip", "one statement|syntax error"),
        ("1 UNION SELECT 1", "syntax error"),
        ("json_extract(clip, '$.x') = 1", "malformed JSON"),
        ("frames = ?", "binding"),
        ("frames\x00", "null|unrecognized|contains"),
    ],
)
def test_what_is_no_condition_is_one_line(source, where, text):
    with pytest.raises(StoreError, match=f"the condition .* does not work: .*({text})") as caught:
        list(source.records(where=where))
    assert "\n" not in str(caught.value)
    assert "valid_frames" in caught.value.hint
    assert len(list(source.records())) == 7


def test_conditions_see_where_rows_have_moved_to(path):
    with store.Writer(path, clips.PROVENANCE) as w:
        connection = w._index.connection
        connection.execute("BEGIN")
        w._index.set_moved([(r.clip, r.track, 100 + r.start) for r in w._index.clips_by_start()])
        found = select(connection, ("clip", "start"), Choice(where="start > 100"), moved=True)
        assert sorted(x for _, x in found) == [107, 110, 115, 116, 118]
        connection.execute("ROLLBACK")


def test_the_table_has_fitting_types(path):
    table = store.open(path).index()
    assert tuple(table.columns) == COLUMNS
    assert table["start"].dtype == pd.Int64Dtype()
    assert table["start"].isna().sum() == 1
    assert (table["frames"].dtype, table["fps"].dtype) == ("int64", "float64")
    assert len(store.open(path).index(where="0")) == 0
