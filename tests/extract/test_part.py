from __future__ import annotations

import random
from pathlib import Path

import pytest

from stages.extract.inputs import InputError, Part, Source

SOURCES = [Source(f"day{i % 7}/clip{i}.mp4", Path(f"{i}.mp4")) for i in range(500)]


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_parts_are_disjoint_complete_and_about_equal(n: int) -> None:
    parts = [Part(i, n).of(SOURCES) for i in range(1, n + 1)]
    assert sorted(source for part in parts for source in part) == sorted(SOURCES)
    assert all(0.4 < len(part) * n / len(SOURCES) < 1.7 for part in parts)


def test_a_clip_stays_in_its_part_whatever_the_others_are() -> None:
    part = Part(2, 5)
    shuffled = random.Random(0).sample(SOURCES, len(SOURCES))
    assert sorted(part.of(shuffled)) == sorted(part.of(SOURCES))
    assert part.of(SOURCES[::3]) == [s for s in part.of(SOURCES) if s in SOURCES[::3]]


def test_the_split_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert [[i for i in range(1, 4) if Part(i, 3).holds(c)] for c in ("a.mp4", "b/ü.mov")] == [
        [2],
        [3],
    ]


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "-1/2", "1/0", "a/b", "1/2/3", "1.5/2", "1/2x", "٣/٤"]
)
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="I/N") as caught:
        Part.parse(text)
    assert caught.value.exit_code == 2


def test_a_part_has_a_store_of_its_own() -> None:
    assert Part.parse(" 2/4 ") == Part(2, 4)
    assert Part(2, 4).store(Path("x/features.store")) == Path("x/features.2-of-4.store")
    assert Part().store(Path("features.store")) == Path("features.store")
