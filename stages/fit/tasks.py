"""Tasks beside the score: columns of the label file that name a class of each clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from store.errors import FacepipeError

# Of each clip, by column, what the label file says; empty where it says nothing.
Attributes = Mapping[str, Mapping[str, str]]
NOT_TASKS = ("clip", "score", "person")
MOST_CLASSES = 20


class TaskError(FacepipeError, ValueError):
    """A task for which the labels have no column, or no classes."""


def attributes_of(table: pd.DataFrame) -> Attributes:
    """Return words by clip and column: every column of a label table that may be a task."""
    columns = [str(c) for c in table.columns if c not in NOT_TASKS]
    cells = table[columns].astype(str).itertuples(index=False, name=None)
    return {
        str(clip): dict(zip(columns, row, strict=True))
        for clip, row in zip(table["clip"], cells, strict=True)
    }


def find_tasks(attributes: Attributes, named: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the classes of each task, sorted, as the training clips have them.

    Parameters
    ----------
    attributes : Attributes
        Of the training clips.
    named : sequence of str, optional
        Which columns; left out: all but ``subset`` that hold words (not numbers) of 2 to 20 kinds.

    Raises
    ------
    TaskError
        A column that is not there, or with fewer than 2 classes.
    """
    columns = list(next(iter(attributes.values()), {}))
    found = {}
    for column in columns if named is None else named:
        if column not in columns:
            raise TaskError(
                f"the labels have no column '{column}' for a task",
                f"columns that may be one: {', '.join(columns) or 'none'}",
            )
        words = {row[column] for row in attributes.values() if row[column]}
        if named is None and (column == "subset" or _numbers(words) or len(words) > MOST_CLASSES):
            continue
        if len(words) >= 2:
            found[column] = sorted(words)
        elif named is not None:
            raise TaskError(
                f"column '{column}' has {len(words)} class(es) among the training clips; a task "
                "needs 2",
                "leave it out of model.tasks",
            )
    return found


def _numbers(words: Iterable[str]) -> bool:
    """Whether every word is a number."""
    try:
        [float(word) for word in words]
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Accuracy:
    """How often a class was told rightly.

    Attributes
    ----------
    task : str
    n : int
        Clips with a label.
    accuracy, low, high : float
        Share, and Wilson's 95 % interval with as many trials as there are groups.
    majority : float
        Share of the commonest class: what guessing gives.
    """

    task: str
    n: int
    accuracy: float
    low: float
    high: float
    majority: float


def accuracy_of(
    task: str, told: Sequence[Sequence[str]], truth: Sequence[str], group: Sequence[str]
) -> Accuracy | None:
    """Compare classes told of n clips with the labels; None where no clip has a label.

    Parameters
    ----------
    task : str
    told : repeats of n classes
    truth, group : n labels, empty where there is none, and n groups
        Clips of one group (person) are not independent: they count as one trial in the interval.
    """
    rows = [k for k, word in enumerate(truth) if word]
    if not rows:
        return None
    right = np.array([[words[k] == truth[k] for k in rows] for words in told], np.float64)
    groups = len({group[k] for k in rows})
    # A share of so many trials need not be a whole number of them; the formula does not mind.
    low, high = _wilson(float(right.mean()), groups)
    commonest = Counter(truth[k] for k in rows).most_common(1)[0][1] / len(rows)
    return Accuracy(task, len(rows), float(right.mean()), low, high, commonest)


def _wilson(share: float, trials: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share, 95 %."""
    z = float(stats.norm.ppf(0.975))
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    spread = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + (z / trials / 2) ** 2)
    return max(0.0, float(centre - spread)), min(1.0, float(centre + spread))
