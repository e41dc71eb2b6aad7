"""What long passes over a store say of how far they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import store
from store.care import compact, forget
from store.exchange import export
from store.exchange_formats import import_from
from store.merge import merge
from store.progress import Progress
from tests.store import store_clips as clips


def import_again(a: Path, form: str, tell: Progress) -> None:
    export(store.open(a), form, a.with_name("out"))
    import_from(a.with_name("out"), form, a.with_name("i.store"), progress=tell)


PASSES: dict[str, Callable[[Path, Progress], object]] = {
    "verify": lambda a, tell: store.verify(a, tell),
    "verify several": lambda a, tell: store.verify([a], tell),
    "digest": lambda a, tell: list(store.digest(a, tell)),
    "merge": lambda a, tell: merge(a.with_name("m.store"), [a], layout=clips.TINY, progress=tell),
    "forget": lambda a, tell: forget(a, ["b.mp4"], tell),
    "compact": compact,
    "export": lambda a, tell: export(store.open(a), "npz", a.with_name("npz"), tell),
    **{
        f"import {form}": lambda a, tell, form=form: import_again(a, form, tell)
        for form in ("hdf5", "npz", "csv")
    },
}


@pytest.mark.parametrize("name", PASSES)
def test_progress_grows_to_its_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.store"
    writer = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
    for clip in ("a.mp4", "b.mp4", "c.mp4"):
        writer.append(clips.record(clip, clips.rows(70)), clips.rows(70))
    writer.flush()
    if name == "compact":  # which has nothing to copy where nothing was replaced
        writer.append(clips.record("a.mp4", clips.rows(70, seed=1)), clips.rows(70, seed=1),
                      replace=True)  # fmt: skip
        writer.flush()
        writer._abandon()
    else:
        writer.close()
    told: list[tuple[int, int]] = []
    PASSES[name](path, lambda done, total: told.append((done, total)))
    assert len(told) > 1
    assert told == sorted(told) and len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1] > 0
    assert store.verify(path).ok
