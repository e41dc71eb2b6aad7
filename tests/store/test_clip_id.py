import pytest

from store import ClipIdError, check_clip_id


@pytest.mark.parametrize(
    "clip",
    ["a.mp4", "day 1/ü/клип.mp4", "a..b/c.mp4", ".hidden", "x" * 1024, "a\\b.mp4", "#1 👍.mp4"],
)
def test_names_of_files_are_ids(clip):
    check_clip_id(clip)
    assert clip


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "absolute"),
        ("\\\\host\\share", "absolute"),
        ("C:\\a.mp4", "drive letter"),
        ("c:a.mp4", "drive letter"),
        ("../a.mp4", "'..'"),
        ("a/../../b.mp4", "'..'"),
        ("a\\..\\b.mp4", "'..'"),
        ("a/./b.mp4", "'.'"),
        ("a//b.mp4", "''"),
        ("a/", "''"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x7fb", "control character"),
        ("a\udcff.mp4", "Unicode"),
        ("x" * 1025, "1025"),
    ],
)
def test_what_would_leave_the_store_is_refused(clip, reason):
    with pytest.raises(ClipIdError, match="clip id") as caught:
        check_clip_id(clip)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
