"""What tasks beside the score came to, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from stages.fit.report import markdown_table, write_text
from stages.fit.tasks import Accuracy
from stages.fit.verdict import span

TASKS = "tasks.csv"
COLUMNS = ("contestant", "task", "accuracy", "commonest class alone", "clips")


def tasks_rows(tasks: Mapping[str, Sequence[Accuracy]]) -> list[list[object]]:
    """Return a row for each contestant and task, see COLUMNS."""
    return [
        [name, a.task, f"{a.accuracy:.3f} [{span(a.low, a.high)}]", f"{a.majority:.3f}", a.n]
        for name, found in tasks.items()
        for a in found
    ]


def tasks_text(tasks: Mapping[str, Sequence[Accuracy]]) -> str:
    """Return the report's section on tasks beside the score; nothing where there are none."""
    if not tasks:
        return ""
    table = markdown_table(COLUMNS, tasks_rows(tasks))
    note = "Brackets hold Wilson's 95 % intervals with as many trials as there are groups."
    return f"\n## Tasks beside the score\n\n{table}\n\n{note}\n"


def write_tasks(folder: Path, tasks: Mapping[str, Sequence[Accuracy]]) -> None:
    """Write tasks.csv, a line a contestant and task; none where there are no tasks."""
    lines = [{"contestant": name, **vars(a)} for name, found in tasks.items() for a in found]
    if lines:
        write_text(folder / TASKS, pd.DataFrame(lines).to_csv(index=False))
