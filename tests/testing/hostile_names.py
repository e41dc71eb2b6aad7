"""Names of files that break out of tables, pages, terminals and folders, where the name is used."""

from __future__ import annotations

import os
from pathlib import Path

from tests.testing.clips import moving_square

_MARK = "\u202e"  # turns the direction of writing
NAMES: tuple[bytes, ...] = (
    b"<script>alert(1)<%2Fscript><img src=x onerror=alert(1)>.mp4",
    b"\"double' single`tick.mp4",
    b"two\nlines\r, comma.mp4",
    b'=HYPERLINK("x","y").mp4',
    b"+1+1.mp4",
    b"-rf.mp4",
    b"@SUM(A1).mp4",
    b"'=quoted.mp4",
    b"a;=1+1.mp4",
    b"\t=tab.mp4",
    b" blank at both ends .mp4",
    b"a\\..\\..\\up.mp4",
    b"a..%2f..%2fup.mp4",
    b"\\\\server\\share.mp4",
    b"C:drive.mp4",
    b"%s%n{0}$(touch x).mp4",
    b"[bold red]markup[x].mp4",
    b":smile:.mp4",
    b"\x1b[2J\x1b]0;title\x07.mp4",
    b"\x9b31m.mp4",  # no UTF-8, and a control sequence in Latin 1
    b"bad\xff\xfe.mp4",
    f"{_MARK}gpj.mp4".encode(),
    "日本語 ümläut 👩‍👩‍👧.mp4".encode(),
    b"n" * 251 + b".mp4",
    b"\x01" * 251 + b".mp4",
    b"All|`*_.mp4",
)


def write_hostile_clips(folder: Path, frames: int = 6) -> list[Path]:
    """Write a tiny clip under each name, and some of them in a folder of such a name too."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = moving_square(folder / "plain.mp4", frames).read_bytes()
    deep = Path(os.fsdecode(bytes(folder) + b"/=dir\xff\n" + b"\x02" * 240))
    deep.mkdir()
    paths = [Path(os.fsdecode(bytes(folder) + b"/" + name)) for name in NAMES]
    paths += [deep / path.name for path in paths[:2]]
    paths.append(deep / os.fsdecode(b"\x03" * 251 + b".mp4"))
    for k, path in enumerate(paths):
        path.write_bytes(plain + bytes(k + 1))  # no two files alike
    return [folder / "plain.mp4", *paths]
