r"""The one place that writes CSV, so that no cell of a table is a formula.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula and computes
it when the file is opened (CWE-1236), and a clip's name or a channel's is text that anybody may
have chosen. So text gets an apostrophe before such a beginning; `unguard` takes it away again, and
the reader of labels does. Numbers stay as they are, also those that stand as text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.printable import printable

if TYPE_CHECKING:
    import pandas as pd

# Full-width forms are taken for the plain ones where Chinese or Japanese is set.
_SIGNS = r"=+\-@\uFF1D\uFF0B\uFF0D\uFF20"
# Where ";" or a tab separates cells, as ";" does in most of Europe, a cell begins after each of
# them too. Quotes and blanks may vanish before the sign is looked at.
_BEGIN = rf"(?:^(?=%s[\"' ]*[{_SIGNS}\t\r\n])|(?<=[;\t\r\n])(?=%s[\"' ]*[{_SIGNS}]))"
_UNGUARDED = re.compile(_BEGIN.replace("%s", ""))
_GUARDED = re.compile(_BEGIN.replace("%s", "'") + "'")
_CONTROL = re.compile(r"[\x00-\x08\x0B-\x1F\x7F-\x9F\uD800-\uDFFF]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def guard(text: str) -> str:
    """Return text as it stands in a cell: never a formula, and `unguard` gives it back."""
    return text if _NUMBER.fullmatch(text) else _UNGUARDED.sub("'", text)


def unguard(cell: str) -> str:
    """Return the text of a cell that ``guard`` made; others are left as they are.

    Only an apostrophe before what would be a formula is taken away.
    """
    return _GUARDED.sub("", cell)


def write_csv(table: pd.DataFrame, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a table as CSV, without its index, whole or not at all.

    Text is guarded; control characters in it (but tabs and line feeds) and bytes of file names
    that are no text stand as ``%XX``.

    Parameters
    ----------
    table : DataFrame
    path : path
        Replaced if it is there.
    options
        For ``DataFrame.to_csv``, such as ``float_format``.

    Raises
    ------
    OSError
    """
    target = Path(path)
    safe = table.rename(columns=_guarded)
    for place, kind in enumerate(safe.dtypes):
        if kind.kind not in "biufcmM":
            safe.isetitem(place, safe.iloc[:, place].map(_guarded).array)
    partial = target.with_name(f".{target.name[:200]}.{os.getpid()}.partial")
    try:
        safe.to_csv(partial, index=False, **options)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _guarded(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    # A lone carriage return breaks the line for many readers, an escape sequence the terminal.
    return guard(_CONTROL.sub(lambda found: printable(found[0]), cell))
