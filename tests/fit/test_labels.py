from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stages.fit.labels import LabelError, read_labels, unscaled

KNOWN = ["a.mp4", "b.mp4", "sub/c.mp4", "sub/c.mov", "d.e.mp4"]


def write(path: Path, text: str | bytes) -> Path:
    file = path / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_columns_order_and_hash(tmp_path: Path) -> None:
    text = "score,clip,person,subset,age\n1.5,a.mp4,ann,s0,30\n-2,b.mp4,,s1,\n"
    labels = read_labels(write(tmp_path, text), KNOWN)
    assert list(labels.frame.columns) == ["clip", "score", "subset", "person", "age"]
    assert labels.frame["score"].tolist() == [1.5, -2.0]
    assert labels.frame["age"].tolist() == ["30", ""]
    assert labels.groups == ["person ann", "clip b.mp4"]
    assert labels.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert labels.notes == ["3 of 5 clips of the store have no label"]
    assert labels.warnings == []


def test_a_column_named_line_is_the_users(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "clip,score,line\na.mp4,1,7\nb.mp4,2,8\n"), KNOWN)
    assert labels.frame["line"].tolist() == ["7", "8"]


def test_labels_that_are_all_the_same_are_told(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "clip,score\na.mp4,3\nb.mp4,3.0\n"), KNOWN)
    assert "all 2 scores are 3: there is nothing to rank" in labels.notes


def test_a_scale_for_each_subset_needs_subsets(tmp_path: Path) -> None:
    bare = read_labels(write(tmp_path, "clip,score\na.mp4,1\nb.mp4,2\n"), KNOWN)
    (said,) = unscaled("zscore", bare)
    assert said.startswith("normalise=zscore: ") and "names no subset" in said
    assert unscaled("none", bare) == []
    full = read_labels(write(tmp_path, "clip,score,subset\na.mp4,1,x\nb.mp4,2,\n"), KNOWN)
    assert unscaled("rank", full) == []


def test_bom_crlf_capitals_blank_lines_and_missing_extension(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfClip , SCORE\r\na, 1 \r\n\r\nd.e,2\r\n./b.mp4,3\r\n"
    frame = read_labels(write(tmp_path, text), KNOWN).frame
    assert frame["clip"].tolist() == ["a.mp4", "d.e.mp4", "b.mp4"]
    assert frame["person"].tolist() == ["", "", ""]


def test_all_faults_are_collected_with_their_lines(tmp_path: Path) -> None:
    text = "clip,score\na.mp4,1\na,2\nb.mp4,good\nd.e,nan\nsub/c,1\n,4\nb,inf\n"
    with pytest.raises(LabelError) as caught:
        read_labels(write(tmp_path, text), KNOWN)
    assert caught.value.problems == [
        "line 3: 'a' was labelled in line 2 already",
        "line 4: score must be a finite number, found 'good'",
        "line 5: score must be a finite number, found 'nan'",
        "line 6: 'sub/c' could be sub/c.mov or sub/c.mp4",
        "line 7: no clip is named",
        "line 8: score must be a finite number, found 'inf'",
        "line 8: 'b' was labelled in line 4 already",
    ]
    assert "labels.csv" in str(caught.value) and "line 3" in str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    text = "clip,score\n" + "".join(f"x{k},?\n" for k in range(25))
    with pytest.raises(LabelError, match="and 15 more") as caught:
        read_labels(write(tmp_path, text), KNOWN)
    assert len(caught.value.problems) == 25


def test_unknown_clips_are_warnings_by_line(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "clip,score\na.mp4,1\nz.mp4,2\n"), KNOWN)
    assert labels.warnings == ["line 3: the store holds no clip 'z.mp4' with a face"]
    assert "1 of 2 labels name no clip with a face in the store" in labels.notes
    assert len(labels.frame) == 1


def test_no_label_fits(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="none of its 2 labels") as caught:
        read_labels(write(tmp_path, "clip,score\ny,1\nz,2\n"), KNOWN)
    assert "'a.mp4'" in caught.value.hint
    with pytest.raises(LabelError) as caught:
        read_labels(write(tmp_path, "clip,score\ny,1\n"), [])
    assert "no clip with a face" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"clip,score\n", "no label below"),
        (b"name,score\na,1\n", "no column 'clip'; found: name, score"),
        (b"name;score\na;1\n", "no column 'clip' and none 'score'"),
        (b"clip,score,Score\na,1,2\n", "names the column 'score' twice"),
        (b"clip,score\na,1\nb,1,5\n", "line 3: 2 columns expected, found 3"),
        (b"clip,score\na,1\n\xff\xfe,2\n", "line 3 is not UTF-8"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        read_labels(write(tmp_path, text), KNOWN)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such label file"):
        read_labels(tmp_path / "nothing.csv", KNOWN)
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(tmp_path, KNOWN)


def test_lines_are_counted_through_quoted_breaks(tmp_path: Path) -> None:
    text = 'clip,score,note\na,1,"two\nlines"\nb,x,\n'
    with pytest.raises(LabelError, match="line 4: score"):
        read_labels(write(tmp_path, text), KNOWN)


def test_cells_that_were_kept_from_being_formulas_name_their_clips(tmp_path: Path) -> None:
    known = ["=a.mp4", "'=a.mp4", "b\\n.mp4", " c.mp4 ", "-5"]
    text = "clip,score,subset\n'=a.mp4,-1.5,'=x\n''=a.mp4,2,x\nb\\n.mp4,3,\n c.mp4 ,4,\n-5,+5,'y\n"
    frame = read_labels(write(tmp_path, text), known).frame
    assert frame["clip"].tolist() == known
    assert frame["score"].tolist() == [-1.5, 2, 3, 4, 5]
    assert frame["subset"].tolist() == ["=x", "x", "", "", "'y"]


def test_an_apostrophe_that_a_user_meant_is_kept(tmp_path: Path) -> None:
    frame = read_labels(
        write(tmp_path, "clip,score\n'=a.mp4,1\n=b,2\n"), ["'=a.mp4", "=b.mp4"]
    ).frame
    assert frame["clip"].tolist() == ["'=a.mp4", "=b.mp4"]
