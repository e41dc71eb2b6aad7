from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import store
from store.companion import CompanionError, open_companion
from store.errors import StoreMismatchError
from store.foreign_csv import TableError
from store.tracks import import_tracks
from tests.fit.fit_clips import PROVENANCE, clip_rows, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Clips of 6 frames: a/one.mp4, a/two.mp4 and b/two.mov."""
    place = tmp_path / "features.store"
    _append(place, "a/one.mp4", "a/two.mp4", "b/two.mov")
    return place


def _append(place: Path, *names: str) -> None:
    rng = np.random.default_rng(0)
    with store.Writer(place, PROVENANCE) as writer:
        for name in names:
            rows = clip_rows(rng, 6, 1.0)
            writer.append(record(name, rows), rows)
        writer.flush()


def _read(path: Path, out: Path, clip: str) -> np.ndarray:
    found = store.open(path).record(clip)
    start = found.start or 0
    return open_companion(out).read(start, start + found.frames)


def test_openfaces_file_becomes_rows(path: Path, tmp_path: Path) -> None:
    files = tmp_path / "csv"
    (files / "a").mkdir(parents=True)
    (files / "a" / "one.csv").write_text(
        "frame, success, AU12_r, AU12_c, AU01_r\n"
        "2, 1, 0.5, 1, 2\n1, 1, 0.25, 0, 1\n4, 0, 5, 1, 5\n9, 1, 1, 1, 1\n"
    )
    (files / "nobody.csv").write_text("frame,AU01_r\n1,2\n")
    with store.open(path) as opened:
        done = import_tracks(files, opened, tmp_path / "tracks")
    assert (done.clips, done.frames) == (1, 2)
    assert done.companion.columns == ("AU01_r", "AU12_r")
    nan = np.nan
    expected = [[1, 0.25], [2, 0.5], [nan, nan], [nan, nan], [nan, nan], [nan, nan]]
    np.testing.assert_array_equal(_read(path, tmp_path / "tracks", "a/one.mp4"), expected)
    assert np.isnan(_read(path, tmp_path / "tracks", "a/two.mp4")).all()
    assert any("nobody.csv" in line for line in done.notes)
    assert any("behind the last frame" in line for line in done.notes)
    with store.open(path) as opened:  # whatever the pattern, what numbers a frame is no label of it
        every = import_tracks(files, opened, tmp_path / "every", columns="*").companion
    assert every.columns == ("AU01_r", "AU12_c", "AU12_r")


def test_a_file_for_each_unit(path: Path, tmp_path: Path) -> None:
    """As BP4D and DISFA come: frame,intensity, no header, 9 for not known, / as _."""
    files = tmp_path / "txt"
    files.mkdir()
    (files / "a_one_AU12.csv").write_text("1,3\n2,9\n3,4\n")
    (files / "a_one_au6.txt").write_text("1,0\n2,1\n3,2\n")
    with store.open(path) as opened:
        done = import_tracks(files, opened, tmp_path / "tracks", missing=9)
    assert done.companion.columns == ("AU06", "AU12")
    rows = _read(path, tmp_path / "tracks", "a/one.mp4")
    np.testing.assert_array_equal(rows[:3], [[0, 3], [1, np.nan], [2, 4]])


def test_a_first_line_of_equal_cells_is_data(path: Path, tmp_path: Path) -> None:
    """pandas would name the columns 1 and 1.1."""
    for name, text in (("a_one_AU1.csv", "1,1\n2,3\n"), ("a_two_AU1.csv", "0,0\n1,2\n")):
        (tmp_path / "csv").mkdir(exist_ok=True)
        (tmp_path / "csv" / name).write_text(text)
    with store.open(path) as opened:
        import_tracks(tmp_path / "csv", opened, tmp_path / "tracks")
    assert _read(path, tmp_path / "tracks", "a/one.mp4")[:2].tolist() == [[1], [3]]
    assert _read(path, tmp_path / "tracks", "a/two.mp4")[:2].tolist() == [[0], [2]]


def test_trees_as_disfa_and_bp4d_have_them(tmp_path: Path) -> None:
    path = tmp_path / "features.store"
    clips = ("LeftVideoSN001_comp.avi", "LeftVideoSN010_comp.avi", "F001/T1.mp4")
    _append(path, *clips)
    for name, value in (
        ("SN001/SN001_au1.txt", 1),
        ("SN010/SN010_au1.txt", 2),
        ("AU01/F001_T1_AU01_int.csv", 3),
    ):
        file = tmp_path / "labels" / name
        file.parent.mkdir(parents=True)
        file.write_text(f"1,{value}\n2,{value}\n")
    with store.open(path) as opened:
        done = import_tracks(tmp_path / "labels", opened, tmp_path / "tracks")
    assert (done.clips, done.notes) == (3, [])
    for value, clip in enumerate(clips, start=1):
        assert _read(path, tmp_path / "tracks", clip)[0].tolist() == [value]


def test_a_name_that_two_clips_bear_is_nobodys(path: Path, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("AU01_r\n1\n")
    with store.open(path) as opened, pytest.raises(TableError, match="none of its 1 files"):
        import_tracks(tmp_path / "two.csv", opened, tmp_path / "tracks")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frame,AU01_r\n1,big\n", "column AU01_r: expected numbers"),
        ("frame,AU01_r\n1,1\n1,2\n", "each once"),
        ("frame,AU01_r\n1.5,1\n", "whole numbers"),
        ("frame,smile\n1,1\n", "columns named like"),
        ("", "expected a CSV file"),
    ],
)
def test_faults_name_the_file(path: Path, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "one.csv"
    file.write_text(text)
    with store.open(path) as opened, pytest.raises(TableError, match=said) as told:
        import_tracks(file, opened, tmp_path / "tracks")
    assert str(file) in str(told.value)
    assert not (tmp_path / "tracks").exists()


def test_rows_of_another_store_are_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("AU01_r\n1\n2\n")
    with store.open(path) as opened:
        made = import_tracks(tmp_path / "one.csv", opened, tmp_path / "tracks").companion
        made.check(opened, opened.n_rows)
    _append(path, "c/new.mp4")
    with store.open(path) as opened:
        made.check(opened, 18)  # rows are only appended: the old ones stand
        with pytest.raises(StoreMismatchError, match="extracted later"):
            made.check(opened, opened.n_rows)
    from store.care import forget

    forget(path, ["a/one.mp4"])
    with store.open(path) as opened, pytest.raises(StoreMismatchError, match="compacted"):
        made.check(opened, 6)


def test_nothing_else_is_overwritten(path: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("AU01_r\n1\n2\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with store.open(path) as opened:
        with pytest.raises(CompanionError, match="is there already"):
            import_tracks(tmp_path / "one.csv", opened, tmp_path / "mine")
        for _ in range(2):  # one of its own kind is replaced
            import_tracks(tmp_path / "one.csv", opened, tmp_path / "tracks")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    with pytest.raises(CompanionError, match="expected a folder"):
        open_companion(tmp_path / "mine")
