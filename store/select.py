"""Which clips of an index: by status, by name, by a condition in SQL; in pages, without a lock."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from store.errors import StoreError
from store.records import COLUMNS, NULLABLE_INTEGERS
from store.schema import Status

if TYPE_CHECKING:
    import pandas as pd

PAGE = 2048
_NAMES_AT_ONCE = 500  # below SQLite's oldest limit of 999 parameters


@dataclass(frozen=True)
class Choice:
    """Which records: of these statuses, of these clips, and for which ``where`` holds; None: any.

    ``where`` is a condition in SQLite's SQL over the columns of the table ``clip`` (FORMAT.md).
    """

    statuses: tuple[str, ...] | None = None
    subset: tuple[str, ...] | None = None
    where: str | None = None

    @classmethod
    def of(
        cls,
        status: Status | Iterable[Status] | None = None,
        subset: Iterable[str] | None = None,
        where: str | None = None,
    ) -> Choice:
        """Take the arguments as a user gives them; iterables may be such that are spent."""
        if isinstance(subset, str):
            raise StoreError(f"subset: expected several clip ids, got the text {subset!r}")
        one = isinstance(status, Status)
        return cls(
            None if status is None else tuple(map(str, [status] if one else status)),
            None if subset is None else tuple(sorted(set(subset))),
            where,
        )


def select(
    connection: sqlite3.Connection,
    columns: Sequence[str],
    choice: Choice,
    *,
    moved: bool = False,
    by_start: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """Yield columns of the chosen records, page by page: no cursor stays open in between.

    Parameters
    ----------
    connection : sqlite3.Connection
        To an index.
    columns : sequence of str
        Names out of ``COLUMNS``.
    choice : Choice
        Which records.
    moved : bool
        Whether the table ``moved`` holds the first rows.
    by_start : bool
        Only records that own rows, in the order of these; otherwise ordered by clip and track.

    Raises
    ------
    StoreError
        There is no such column; the condition is none, or fails on a record.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise StoreError(f"no column {unknown[0]!r}; expected one of {', '.join(COLUMNS)}")
    if choice.where is not None:
        _check_condition(connection, choice.where)
    keys = ("start",) if by_start else ("clip", "track")
    if by_start:
        names: list[tuple[str, ...] | None] = [choice.subset]
        if choice.subset is not None and len(choice.subset) > _NAMES_AT_ONCE:
            wanted = set(choice.subset)  # their pieces would not come in the order of rows
            rest = Choice(choice.statuses, None, choice.where)
            found = select(connection, [*columns, "clip"], rest, moved=moved, by_start=True)
            yield from (row[:-1] for row in found if row[-1] in wanted)
            return
    elif choice.subset is None:
        names = [None]
    else:
        step = _NAMES_AT_ONCE
        names = [choice.subset[i : i + step] for i in range(0, len(choice.subset), step)]
    for some in names:
        yield from _pages(connection, columns, keys, choice, some, moved)


def _pages(
    connection: sqlite3.Connection,
    columns: Sequence[str],
    keys: tuple[str, ...],
    choice: Choice,
    names: tuple[str, ...] | None,
    moved: bool,
) -> Iterator[tuple[Any, ...]]:
    parts: list[str] = []
    values: list[str] = []
    for column, chosen in (("status", choice.statuses), ("clip", names)):
        if chosen is not None:
            parts.append(f"{column} IN ({','.join('?' * len(chosen))})")
            values += chosen
    if choice.where is not None:
        parts.append(f"(\n{choice.where}\n)")
    if keys == ("start",):
        parts.append("start IS NOT NULL")
    known = set(keys) <= set(columns)  # else they come behind the columns, and are cut off
    query = (
        f"SELECT {', '.join([*columns, *(() if known else keys)])} FROM {_table(moved)} "
        f"WHERE ({', '.join(keys)}) > ({', '.join('?' * len(keys))}) "
        f"{''.join(f'AND {part} ' for part in parts)}ORDER BY {', '.join(keys)} LIMIT {PAGE}"
    )
    last: tuple[Any, ...] = (-1,) if keys == ("start",) else ("", -1)
    while True:
        try:
            page = connection.execute(query, (*last, *values)).fetchall()
        except sqlite3.OperationalError as error:
            if choice.where is None:
                raise
            raise _refusal(choice.where, error) from error
        if known:
            yield from page
        else:
            yield from (row[: len(columns)] for row in page)
        if len(page) < PAGE:
            return
        end = page[-1]
        last = tuple(end[columns.index(key)] for key in keys) if known else end[len(columns) :]


def _table(moved: bool) -> str:
    if not moved:
        return "clip"
    names = ", ".join("moved.start" if c == "start" else f"old.{c}" for c in COLUMNS)
    return (
        f"(SELECT {names} FROM clip AS old LEFT JOIN moved "
        "ON moved.clip = old.clip AND moved.track = old.track) AS clip"
    )


def _check_condition(connection: sqlite3.Connection, where: str) -> None:
    """Refuse what is no condition. It stands in brackets later: only what is whole without them
    too cannot close them and go on with something else.
    """  # noqa: D205
    for text in (where, f"(\n{where}\n)"):
        try:
            connection.execute(f"EXPLAIN SELECT 1 FROM clip WHERE {text}").fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise _refusal(where, error) from error


def _refusal(where: str, error: BaseException) -> StoreError:
    shown = " ".join(where.split())
    return StoreError(
        f"the condition {shown!r} does not work: {' '.join(str(error).split())}",
        f"It is SQLite's SQL over the columns {', '.join(COLUMNS)}; for example: "
        "status = 'ok' AND valid_frames > 0.9 * frames",
    )


def table(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """Return rows of all ``COLUMNS`` as a table; numbers that may be missing are nullable."""
    import pandas as pd

    made = pd.DataFrame.from_records(list(rows), columns=list(COLUMNS))
    for name in NULLABLE_INTEGERS:
        made[name] = made[name].astype("Int64")
    for name in ("fps", "duration_s"):
        made[name] = made[name].astype("float64")
    made["details"] = pd.Series(
        [{} if text == "{}" else json.loads(text) for text in made["details"]], dtype=object
    )
    return made
