"""What tasks beside the score came to, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.fit.contestants import Contestant
from stages.fit.fold_runs import fold_file
from stages.fit.report import markdown_table
from stages.fit.study import Study
from stages.fit.tasks import Accuracy, accuracy_of
from stages.fit.verdict import span
from store.tables import write_csv

TASKS = "tasks.csv"
COLUMNS = ("contestant", "task", "accuracy", "commonest class alone", "clips")


def told_classes(study: Study, folder: Path, contestant: Contestant) -> dict[str, list[list[str]]]:
    """Return by task, repeat by repeat, the class that was told of each clip; {} for no tasks."""
    found: dict[str, list[list[str]]] = {}
    folds = study.grouping.folds
    for repeat, fold_of in enumerate(folds):
        for fold in range(study.design.folds):
            kept = json.loads(fold_file(folder, (contestant, repeat, fold)).read_text())
            for task, words in kept.get("classes", {}).items():
                rows = found.setdefault(task, [[""] * len(fold_of) for _ in folds])
                for place, word in zip(np.flatnonzero(fold_of == fold), words, strict=True):
                    rows[repeat][place] = word
    return found


def accuracies(study: Study, folder: Path, contestant: Contestant) -> list[Accuracy]:
    """Compare the classes that a contestant told with the labels, over all repeats."""
    found = []
    for task, repeats in told_classes(study, folder, contestant).items():
        truth = study.table[task].tolist()
        measured = accuracy_of(task, repeats, truth, study.grouping.group)
        found += [measured] if measured else []
    return found


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
        write_csv(pd.DataFrame(lines), folder / TASKS)
