"""The one place that prints: results to stdout, everything else to stderr.

With ``--json`` stdout gets exactly one JSON object. What is printed may hold the names of files,
channels and people: it is shown as it is, rich's brackets too, but for what would not print.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from store.printable import printable

if TYPE_CHECKING:  # the console itself must come up at once
    from stages.extract.run import Summary
    from store.schema import ClipRecord

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_quiet = False


def be_quiet(wanted: bool = True) -> None:
    """Print neither notes nor progress from now on; results, warnings and errors stay."""
    global _quiet
    _quiet = wanted


def _hidden() -> bool:
    """Whether bars are to be left out; where nobody looks they would leave blank lines."""
    return _quiet or not err.is_terminal


def shown(text: str, style: str = "") -> Text:
    """Return text as it is, but for what would not print: it cannot command the terminal."""
    return Text(printable(text, keep="\n"), style)


def note(line: str) -> None:
    """Say something by the way."""
    if not _quiet:
        err.print(shown(line, "dim"), soft_wrap=True)


def warn(line: str) -> None:
    """Say something that the user should not miss."""
    err.print(Text.assemble(("warning: ", "yellow"), shown(line)), soft_wrap=True)


def error(line: str, hint: str = "") -> None:
    """Say why it does not go on, and what to do."""
    err.print(Text.assemble(("error: ", "bold red"), shown(line)), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("  -> ", "dim"), shown(hint)), soft_wrap=True)


def result(line: str | Text) -> None:
    """Print a line of the result."""
    out.print(shown(line) if isinstance(line, str) else line, soft_wrap=True)


say = result


def emit(value: dict[str, Any]) -> None:
    """Print the one JSON object of a run with ``--json``; numbers that JSON lacks are null."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Print a table; numbers to the right."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(shown(str(cell)) for cell in row))
    out.print(grid)


class ClipProgress:
    """A live bar over clips with frames per second and time to go."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: Any = None

    def started(self, summary: Summary) -> None:
        """Show what is ahead."""
        plan = summary.plan
        note(
            f"{len(plan.todo)} clips to extract, {len(plan.done)} done already; "
            f"{summary.provider} ({summary.device_reason}), {summary.workers} workers"
        )
        for source in plan.changed:
            warn(
                f"{source.clip}: the store holds this clip from another file; left as it is "
                "(--overwrite replaces it)"
            )
        self._task = self._progress.add_task("extracting", total=len(plan.todo), rate="")

    def finished(self, record: ClipRecord, summary: Summary) -> None:
        """Count one clip; speak up about those that are not whole."""
        started = self._progress.tasks[self._task].start_time or 0.0
        seconds = max(self._progress.get_time() - started, 1e-6)
        rate = f"{summary.frames / seconds:.0f} frames/s"
        self._progress.update(self._task, advance=1, rate=rate)
        if not record.status.has_rows:
            warn(f"{record.clip}: {record.status}: {record.message}")


@contextmanager
def clip_progress() -> Iterator[ClipProgress]:
    """Show a bar on stderr while clips are extracted."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=_hidden(), transient=True) as progress:
        yield ClipProgress(progress)


@contextmanager
def epoch_progress(total: int) -> Iterator[Any]:
    """Show a bar on stderr while a model is trained; yields the callback for epochs.

    It begins anew with the training on train and val together, whose rows say ``of`` how many.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=_hidden(), transient=True) as progress:
        task = progress.add_task("training", total=total, state="")
        again = False

        def epoch(row: dict[str, float]) -> None:
            nonlocal again
            if "of" in row and not again:
                again = True
                progress.reset(task, total=row["of"], description="training again")
            state = f"val SRC {row['val_src']:.3f}" if "val_src" in row else ""
            progress.update(task, advance=1, state=state)

        yield epoch


@contextmanager
def work_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr during a long pass; yields what is told (done, of all) of its work."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=_hidden(), transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def fold_progress(first: str = "folds") -> Iterator[Any]:
    """Show a bar on stderr while folds are fitted, or other steps; yields the callback for each."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=_hidden(), transient=True) as progress:
        task = progress.add_task(first, total=None)

        def fold(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        yield fold


def extraction(summary: Summary) -> None:
    """Print what an extraction did."""
    if not summary.statuses:
        result(f"nothing to do: {len(summary.plan.done)} clips are in {summary.store} already")
        return
    rows: list[list[object]] = [[status, n] for status, n in sorted(summary.statuses.items())]
    if summary.plan.done:
        rows.append(["done before", len(summary.plan.done)])
    if summary.plan.changed:
        rows.append(["changed, left alone", len(summary.plan.changed)])
    table("clips", ["status", "clips"], rows)
    share = summary.valid_frames / summary.frames if summary.frames else 0.0
    result(
        f"{summary.frames} frames, {summary.valid_frames} with a face ({share:.1%}), "
        f"{summary.frames / max(summary.seconds, 1e-9):.1f} frames/s on {summary.provider} "
        f"with {summary.workers} workers"
    )
    if summary.problems:
        table(
            "most frequent problems",
            ["clips", "problem", "for example"],
            [[n, kind, summary.examples[kind]] for kind, n in summary.problems.most_common(5)],
        )
    result(f"store: {summary.store}")
