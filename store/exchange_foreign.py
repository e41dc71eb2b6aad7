"""What is looked for in files that another program made: arrays by name or shape, and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from store.exchange import ARRAYS, ExchangeError
from store.schema import EMBEDDING_DIM, LANDMARK_DIM

FEATURES = ("embedding", "appearance")
# By one of these names a group or file is a clip.
TELLING = (*FEATURES, "landmark")
_WIDTHS = {"embedding": EMBEDDING_DIM, "landmark": LANDMARK_DIM}
EXPECTED = "embedding or appearance (n,512) or landmark (n,136)"


def arrays_in(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, str]:
    """Return which array of a file is which of a store: the store's name -> the file's.

    An array of one of the store's names is that array. Where none is named ``embedding``, the only
    other one of shape (n, 512) is, and where none is named ``landmark``, the only one of (n, 136).

    Parameters
    ----------
    shapes : mapping of name to shape
        Of the arrays of one group or file.
    where : str
        For the message.

    Raises
    ------
    ExchangeError
        Several have the shape; names them.
    """
    found = {name: name for name in ARRAYS if name in shapes}
    for name, width in _WIDTHS.items():
        if name in found:
            continue
        fits = [k for k, s in shapes.items() if k not in ARRAYS and len(s) == 2 and s[1] == width]
        if len(fits) > 1:
            raise ExchangeError(
                f"{where}: expected one array (n,{width}), or one of them named {name}, "
                f"got {', '.join(sorted(fits))}",
                f"Name the one that is meant {name}.",
            )
        if fits:
            found[name] = fits[0]
    return found


def check_fps(value: Any, where: str) -> float:
    """Return frames a second as a file says them.

    Raises
    ------
    ExchangeError
        It is no number above 0.
    """
    try:
        fps = float(np.asarray(value).item())
    except (TypeError, ValueError):
        fps = 0.0
    if not 0 < fps < float("inf"):
        raise ExchangeError(f"{where}: fps: expected a number above 0, got {value}")
    return fps


def provenance_from(text: str | None, where: str) -> dict[str, Any] | None:
    """Return the provenance that an export wrote; None for None.

    Raises
    ------
    ExchangeError
        It is no JSON object.
    """
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ExchangeError(
            f"{where}: provenance: expected a JSON object as an export writes it, "
            f"got {text[:60]!r}",
            "Delete it, and the clips are imported as made by another program.",
        )
    return found
