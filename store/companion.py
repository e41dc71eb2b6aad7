"""Arrays beside a store: one row for each of its rows, in a folder of their own.

A store's own arrays are settled (FORMAT.md). What is made from them later, or labelled by hand,
lies in a folder ``NAME/`` with ``array.zarr`` ((N, D), chunked as the store is) and ``about.json``:
the columns, what made them, and which rows of which store they belong to. Rows without a value are
NaN.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec

from store import making
from store.errors import StoreError, StoreMismatchError, StoreWriteError
from store.reader import Store
from store.schema import CHUNK_ROWS, SHARD_ROWS
from store.several import Stores

if TYPE_CHECKING:
    import dask.array

FORMAT = 1
ARRAY, ABOUT = "array.zarr", "about.json"
Opened = Store | Stores
FloatArray = npt.NDArray[np.floating]


class CompanionError(StoreError):
    """A folder that holds no such array, or one that may not be replaced."""


def identity(source: Opened) -> list[dict[str, Any]]:
    """Say whose rows are meant: when each store was made, how often compacted, how long it is.

    Rows of a store are only ever appended until it is compacted.
    """
    parts = source.stores if isinstance(source, Stores) else [source]
    return [
        {"created": one.created, "generation": one.generation, "rows": one.n_rows} for one in parts
    ]


@dataclass(frozen=True)
class Companion:
    """An array beside a store, opened for reading.

    ``kind`` says what made it (``mdr``, ``tracks``); ``columns`` names its D columns; ``about`` is
    everything that about.json holds.
    """

    folder: Path
    kind: str
    columns: tuple[str, ...]
    stores: list[dict[str, Any]]
    about: dict[str, Any]

    @property
    def rows(self) -> int:
        """Rows of the store when the array was made."""
        return sum(int(part["rows"]) for part in self.stores)

    def dask(self) -> dask.array.Array:
        """Return the array lazily: (N, D), in blocks of one shard."""
        import dask.array

        array = zarr.open_array(self.folder / ARRAY, mode="r")
        return dask.array.from_zarr(array, chunks=(SHARD_ROWS, array.shape[1]))

    def read(self, start: int, stop: int) -> FloatArray:
        """Return rows ``start`` to ``stop``: (stop - start, D)."""
        return np.asarray(zarr.open_array(self.folder / ARRAY, mode="r")[start:stop])

    def check(self, source: Opened, end: int) -> None:
        """Make sure that rows here are rows of that store, as far as ``end``.

        Raises
        ------
        StoreMismatchError
            Made beside another store, or before it was compacted or got these clips.
        """
        now = identity(source)
        same = [(p["created"], p["generation"]) for p in now] == [
            (p["created"], p["generation"]) for p in self.stores
        ]
        # Of several stores only the last may have grown: the others' rows shift those behind them.
        settled = [p["rows"] for p in now[:-1]] == [p["rows"] for p in self.stores[:-1]]
        if not (same and settled):
            raise StoreMismatchError(
                f"{self.folder}: its rows are those of another store, or of this one before it was "
                "compacted",
                "make it again from this store",
            )
        if end > self.rows:
            raise StoreMismatchError(
                f"{self.folder}: has {self.rows} rows, the clips reach to row {end}: some were "
                "extracted later",
                "make it again, and it holds them too",
            )


def open_companion(folder: str | os.PathLike[str]) -> Companion:
    """Open an array that lies beside a store.

    Raises
    ------
    CompanionError
        There is none, or it is of a newer format.
    """
    path = Path(folder)
    try:
        about = json.loads((path / ABOUT).read_text("utf-8"))
        found = Companion(
            path, str(about["kind"]), tuple(about["columns"]), list(about["stores"]), about
        )
        version = about["format"]
    except FileNotFoundError:
        raise CompanionError(
            f"{path}: expected a folder with {ABOUT} and {ARRAY}, got "
            f"{'one without' if path.is_dir() else 'nothing of that name'}",
            "`pipeline fit --model mdr` and `pipeline store tracks` make such folders",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompanionError(f"{path / ABOUT}: cannot be read ({error})", "make it again") from None
    if version != FORMAT:
        raise CompanionError(f"{path}: format {FORMAT} expected, found {version!r}")
    return found


def beside(path: str | os.PathLike[str]) -> list[Path]:
    """Return the folders next to a store that hold such an array of its rows, of any generation."""
    place = Path(path).absolute()
    with Store(place) as opened:
        created = opened.created
    found = []
    for about in sorted(place.parent.glob(f"*/{ABOUT}")):
        try:
            stores = open_companion(about.parent).stores
        except CompanionError:
            continue  # an about.json of something else
        if any(isinstance(part, dict) and part.get("created") == created for part in stores):
            found.append(about.parent)
    return found


def write_companion(
    folder: str | os.PathLike[str],
    source: Opened,
    kind: str,
    columns: Sequence[str],
    pieces: Iterator[tuple[int, FloatArray]],
    *,
    dtype: str = "float16",
    about: Mapping[str, Any] | None = None,
    extra: Callable[[Path], None] = lambda _: None,
) -> Companion:
    """Write an array beside a store; it takes its name once it is complete.

    Parameters
    ----------
    folder : path
        Where nothing lies, or another such array, which is replaced.
    source : Store or Stores
    kind : str
    columns : sequence of D str
    pieces : iterator of (start, (n, D) float)
        In ascending order of rows, apart from each other. Rows that none covers are NaN.
    dtype : str
    about : mapping, optional
        What else about.json says.
    extra : callable
        Writes further files into the folder.

    Raises
    ------
    CompanionError
        Something else lies there.
    StoreWriteError
        The disk gave out.
    """
    target = Path(folder)
    check_free(target)
    stores = identity(source)
    told = {
        "format": FORMAT,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "columns": list(columns),
        "stores": stores,
        **(about or {}),
    }
    with _complete(target) as partial:
        rows, width = sum(part["rows"] for part in stores), len(columns)
        array = zarr.create_array(
            partial / ARRAY,
            shape=(rows, width),
            dtype=dtype,
            chunks=(CHUNK_ROWS, width),
            shards=(SHARD_ROWS, width),
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
            fill_value=np.nan,
            dimension_names=("frame", "channel"),
        )
        for start, block in _shards(pieces, rows, width, dtype):
            array[start : start + len(block)] = block
        extra(partial)
        (partial / ABOUT).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    return Companion(target, kind, tuple(columns), stores, told)


def check_free(target: Path) -> None:
    """Raise CompanionError if something lies at ``target`` that is no array of this kind."""
    if target.exists() and not (target / ABOUT).is_file() and not _empty(target):
        raise CompanionError(
            f"{target}: is there already and holds no array that lies beside a store",
            "name another place",
        )


def _empty(target: Path) -> bool:
    return target.is_dir() and not any(target.iterdir())


def _shards(
    pieces: Iterator[tuple[int, FloatArray]], rows: int, width: int, dtype: str
) -> Iterator[tuple[int, FloatArray]]:
    """Gather pieces to whole shards: each is then compressed and written once."""
    first, block = 0, None
    for start, piece in pieces:
        done = 0
        while done < len(piece):
            at = (start + done) // SHARD_ROWS * SHARD_ROWS
            if block is None or at != first:
                if block is not None:
                    yield first, block
                first, block = at, np.full((min(SHARD_ROWS, rows - at), width), np.nan, dtype)
            low = start + done - first
            n = min(len(piece) - done, len(block) - low)
            block[low : low + n] = piece[done : done + n]
            done += n
    if block is not None:
        yield first, block


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """Give a temporary sibling that becomes ``target`` if the block succeeds."""
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(making.partial_folder(target))
        except OSError as error:
            raise StoreWriteError(f"{target}: cannot be made ({error.strerror})") from None
        try:
            yield partial
            partial.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            os.replace(partial, target)
        except OSError as error:
            raise StoreWriteError(f"{target}: cannot be written ({error.strerror})") from None
