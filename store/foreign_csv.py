"""CSV files of others, read as text: headers trimmed, numbers by Python's own float."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from store.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd


class TableError(StoreError):
    """A file that is no such table; names it, what was expected and what was found."""


def read_table(file: Path, names: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Read a CSV file as text; OpenFace writes blanks after its commas. Empty cells are "".

    ``names``: of the columns of a file whose first line is data.

    Raises
    ------
    TableError
        It is no CSV file, or empty.
    """
    import pandas as pd

    try:
        table = pd.read_csv(
            file,
            names=names,
            skipinitialspace=True,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        text = " ".join(str(error).split())
        raise TableError(f"{file}: expected a CSV file, got another: {text}") from error
    table.columns = [str(name).strip() for name in table.columns]
    return table


def numbers(file: Path, table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """Return a column as float64, NaN for empty cells.

    Raises
    ------
    TableError
        A cell that is no number; names the column.
    """
    # By Python's float: not every version of pandas reads the nearest float64.
    try:
        return np.asarray([float(cell) if cell.strip() else np.nan for cell in table[name]])
    except ValueError as error:
        raise TableError(f"{file}: column {name}: expected numbers, got others: {error}") from None
