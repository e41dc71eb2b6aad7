"""What the next writer does first: make a new store, or mend what a killed writer left."""

from __future__ import annotations

from datetime import UTC, datetime

from store import compact, durable
from store.arrays import Arrays
from store.errors import StoreFormatError, StoreMismatchError
from store.index import Index
from store.layout import Layout, Paths
from store.opening import check_path, open_index

_OWN = {"arrays.zarr", "arrays.next.zarr", "index.sqlite", "index.sqlite-journal"}
_SIGNS = {"writer.lock", "writer.json"}


def open_for_writing(
    paths: Paths,
    feature_dtype: str,
    layout: Layout,
    crop_size: int | None = None,
    *,
    spoil: bool = False,
) -> tuple[Index, Arrays]:
    """Open the store for its one writer, who holds the lock; make it when nothing is there.

    ``spoil``: overwrite what a killed writer left before it is deleted.

    Raises
    ------
    StoreFormatError, StoreMismatchError
        The folder holds something else, a newer format, other feature dtypes, or other crops.
    """
    if _is_new(paths):
        _create(paths, feature_dtype, layout, crop_size)
    check_path(paths)
    index = open_index(paths, writable=True)
    try:
        meta = index.meta()
        found = meta.feature_dtype
        if found != feature_dtype:
            raise StoreMismatchError(
                f"{paths.root}: holds features of {found}, this run makes {feature_dtype}",
                f"Use {found}, or write to another store (--store OTHER.store).",
            )
        if meta.crop_size != crop_size:
            raise StoreMismatchError(
                f"{paths.root}: holds {_told(meta.crop_size)}, this run makes {_told(crop_size)}",
                "A store has crops of all its clips or of none: ask for the same, or write to "
                "another store (--store OTHER.store).",
            )
        return index, _mend(paths, index, spoil)
    except BaseException:
        index.close()
        raise


def _told(crop_size: int | None) -> str:
    return "no crops" if crop_size is None else f"crops of {crop_size} pixels"


def check_target(paths: Paths) -> None:
    """Refuse a file, or a folder that holds something else, before anything is put into it.

    Raises
    ------
    StoreFormatError
        Says what lies there.
    """
    root = paths.root
    if not root.exists():
        return
    if not root.is_dir() or not _names(paths) <= _OWN | {"arrays.old.zarr"}:
        check_path(paths)


def _names(paths: Paths) -> set[str]:
    names = {p.name for p in paths.root.iterdir()}
    return {n for n in names if not n.endswith(durable.PARTIAL)} - _SIGNS


def _is_new(paths: Paths) -> bool:
    """Whether nothing is there yet, or only what a making that was cut short has left."""
    names = _names(paths)
    if not names:
        return True
    if not names <= _OWN:
        return False
    if paths.index.exists():
        index = Index(paths.index, writable=True)
        try:
            return index.is_empty() and _no_rows(paths)
        finally:
            index.close()
    return _no_rows(paths)


def _no_rows(paths: Paths) -> bool:
    return not any(any(folder.glob("*/c/**/*")) for folder in (paths.arrays, paths.next_arrays))


def _create(paths: Paths, feature_dtype: str, layout: Layout, crop_size: int | None) -> None:
    durable.remove_partials(paths.root)
    for folder in (paths.arrays, paths.next_arrays):
        durable.remove_tree(folder)
    Arrays.create(paths.next_arrays, feature_dtype, layout, generation=0, crop_size=crop_size)
    durable.rename(paths.next_arrays, paths.arrays)
    index = Index(paths.index, writable=True)
    try:
        index.create(feature_dtype, datetime.now(UTC).isoformat(" ", "seconds"), crop_size)
    finally:
        index.close()
    durable.sync_folder(paths.root)
    durable.sync_folder(paths.root.absolute().parent)


def _mend(paths: Paths, index: Index, spoil: bool) -> Arrays:
    compact.finish(paths, index, spoil_all=spoil)
    durable.remove_partials(paths.root, spoil)
    index.drop_early()
    meta = index.meta()
    try:
        arrays = Arrays(paths.arrays, meta.feature_dtype, writable=True, crop_size=meta.crop_size)
    except (OSError, ValueError, KeyError) as error:
        raise StoreFormatError(
            f"{paths.arrays}: cannot be opened: {error}",
            "Restore it from a copy, or extract again.",
        ) from error
    short = {name: n for name, n in arrays.lengths().items() if n < meta.rows}
    if arrays.crop_rows < meta.crop_rows:
        short["crop"] = arrays.crop_rows
    if short or arrays.generation != meta.generation:
        raise StoreFormatError(
            f"{paths.root}: expected arrays of {meta.rows} rows, generation {meta.generation}, "
            f"got {short or arrays.lengths()}, generation {arrays.generation}",
            f"`pipeline store verify {paths.root}` says more.",
        )
    if spoil:
        for file in arrays.beyond(meta.rows, meta.crop_rows):
            durable.overwrite(file)
    arrays.resize(meta.rows)
    arrays.resize_crops(meta.crop_rows)
    arrays.sync()
    return arrays
