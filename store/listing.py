"""The index of a store, or of several read as one, as records and as a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from store import records
from store.schema import ClipRecord, Status
from store.select import table

if TYPE_CHECKING:
    import pandas as pd


class Listing(ABC):
    """What follows from ``iter_rows``."""

    @abstractmethod
    def iter_rows(
        self,
        columns: Sequence[str],
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
        by_start: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield columns of the index as tuples of plain values."""

    def records(
        self,
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
    ) -> Iterator[ClipRecord]:
        """Yield the records of one status, several, or all, ordered by clip and track.

        Parameters
        ----------
        status : Status or iterable of Status, optional
            Which statuses.
        subset : iterable of str, optional
            Which clips; ids that the store does not hold are passed over.
        where : str, optional
            A condition in SQLite's SQL over the columns of ClipRecord, which can only read:
            ``"valid_frames > 0.9 * frames AND clip LIKE 'day1/%'"``.

        Raises
        ------
        StoreError
            The condition does not work; says why.
        """
        rows = self.iter_rows(records.COLUMNS, status, subset=subset, where=where)
        yield from map(records.from_columns, rows)

    def records_by_start(self) -> Iterator[ClipRecord]:
        """Yield the records that own rows, in the order of their rows."""
        yield from map(records.from_columns, self.iter_rows(records.COLUMNS, by_start=True))

    def index(
        self,
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
    ) -> pd.DataFrame:
        """Return all records, or chosen ones as by `records`, as a table: a column a field."""
        return table(self.iter_rows(records.COLUMNS, status, subset=subset, where=where))
