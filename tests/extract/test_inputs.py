from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.extract.inputs import InputError, find_clips
from store import check_clip_id


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_folders_are_searched_recursively_and_ids_are_relative(tmp_path: Path) -> None:
    for name in ("b.mp4", "deep/er/a.MOV", "still.jpg", "notes.txt", "labels.csv"):
        touch(tmp_path / name)
    assert [s.clip for s in find_clips([tmp_path])] == ["b.mp4", "deep/er/a.MOV", "still.jpg"]


def test_hidden_files_and_stores_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.mp4", "._a.mp4", ".trash/b.mp4", "features.store/arrays/c.jpg"):
        touch(tmp_path / name)
    assert [s.clip for s in find_clips([tmp_path])] == ["a.mp4"]


def test_links_to_folders_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    videos, other = tmp_path / "videos", tmp_path / "other"
    touch(videos / "own/a.mp4")
    touch(other / "sub/b.mp4")
    touch(other / "c.mp4")
    for link, target in (
        (videos / "linked", other),
        (videos / "linked_again", other),
        (videos / "aaa", videos / "own"),  # found by its own name
        (videos / "own/up", videos),
        (videos / "out", tmp_path),
        (other / "sub/back", other),
        (other / "home", videos),
        (videos / "nowhere", tmp_path / "gone"),
    ):
        link.symlink_to(target)
    found = [s.clip for s in find_clips([videos])]
    assert found == ["linked/c.mp4", "linked/sub/b.mp4", "own/a.mp4"]


def test_a_file_is_a_clip_of_its_name(tmp_path: Path) -> None:
    path = touch(tmp_path / "deep/a.mp4")
    assert [(s.clip, s.path) for s in find_clips([path])] == [("a.mp4", path)]


def test_the_same_file_twice_is_one_clip(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.mp4")
    assert len(find_clips([tmp_path, path, tmp_path])) == 1


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x/a.mp4")
    touch(tmp_path / "y/a.mp4")
    with pytest.raises(InputError, match=r"two files would both be clip 'a\.mp4'") as caught:
        find_clips([tmp_path / "x", tmp_path / "y"])
    assert "folder above both" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [("no/such", "no such file or folder"), ("empty", "no videos or images"),
     ("notes.txt", "not a video or image")],
)  # fmt: skip
def test_nothing_to_extract(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=expected) as caught:
        find_clips([tmp_path / name])
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_names_that_cannot_stand_in_an_index_are_escaped(tmp_path: Path) -> None:
    touch(tmp_path / "two\nlines.mp4")
    touch(tmp_path / "ümlaut 日本.mp4")
    with open(os.fsencode(tmp_path) + b"/bad\xff.mp4", "wb") as file:
        file.write(b"x")
    clips = [s.clip for s in find_clips([tmp_path])]
    assert clips == ["bad%FF.mp4", "two%0Alines.mp4", "ümlaut 日本.mp4"]
    for clip in clips:
        check_clip_id(clip)


def test_names_that_would_lead_out_of_a_folder_elsewhere_are_escaped(tmp_path: Path) -> None:
    for name in ("a\\..\\b.mp4", "C:x.mp4", "\\\\host\\x.mp4", "fine\\name.mp4", "1:02.mp4"):
        touch(tmp_path / name)
    touch(tmp_path / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250) / ("h" * 250 + ".mp4"))
    clips = [s.clip for s in find_clips([tmp_path])]
    assert clips[:3] == ["%5C%5Chost%5Cx.mp4", "1:02.mp4", "C%3Ax.mp4"]
    assert clips[3] == "a%5C..%5Cb.mp4" and clips[5] == "fine\\name.mp4"
    assert len(clips[4]) <= 1024 and "%~" in clips[4]
    for clip in clips:
        check_clip_id(clip)
