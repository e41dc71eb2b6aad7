"""The one place that prints: results to stdout, everything else to stderr.

With ``--json`` stdout gets exactly one JSON object. What is printed may hold the names of files,
channels and people: it is shown as it is, rich's brackets too, but for what would not print.
rich is imported where something is printed with it: ``--help`` does not need it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from store.printable import printable

if TYPE_CHECKING:  # the console itself must come up at once
    from rich.console import Console
    from rich.text import Text

    from stages.extract.run import Summary
    from store.schema import ClipRecord

LINE_EVERY_S = 30.0  # between lines that say how far it is, where there is no terminal for a bar
_quiet = False


@cache
def out() -> Console:
    """Return the console of results."""
    from rich.console import Console

    return Console(highlight=False)


@cache
def err() -> Console:
    """Return the console of everything else."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def be_quiet(wanted: bool = True) -> None:
    """Print neither notes nor progress from now on; results, warnings and errors stay."""
    global _quiet
    _quiet = wanted


def shown(text: str, style: str = "") -> Text:
    """Return text as it is, but for what would not print: it cannot command the terminal."""
    from rich.text import Text

    return Text(printable(text, keep="\n"), style)


def note(line: str) -> None:
    """Say something by the way."""
    if not _quiet:
        _tell((line, "dim"))


def warn(line: str) -> None:
    """Say something that the user should not miss."""
    _tell(("warning: ", "yellow"), (line, ""))


def error(line: str, hint: str = "") -> None:
    """Say why it does not go on, and what to do."""
    _tell(("error: ", "bold red"), (line, ""))
    if hint:
        _tell(("  -> ", "dim"), (hint, ""))


def _tell(*parts: tuple[str, str]) -> None:
    """Print a line of texts and their styles to stderr."""
    from rich.text import Text

    err().print(Text.assemble(*(shown(*part) for part in parts)), soft_wrap=True)


def result(line: str | Text) -> None:
    """Print a line of the result."""
    out().print(shown(line) if isinstance(line, str) else line, soft_wrap=True)


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
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(shown(str(cell)) for cell in row))
    out().print(grid)


class Told(Protocol):
    """What is called with how far it is; what is left out stays as it was."""

    def __call__(
        self, done: int, total: int | None = None, name: str = "", state: str = ""
    ) -> None:
        """Note it."""


class _Lines:
    """How far it is in plain lines, one in LINE_EVERY_S at most: for logs of batch jobs."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name, self._total, self._state, self._done = name, total, "", 0
        self._first = self._begin = self._last = time.monotonic()

    def __call__(
        self, done: int, total: int | None = None, name: str = "", state: str = ""
    ) -> None:
        now = time.monotonic()
        if done < self._done or self._total not in (None, total or self._total):  # another pass
            self._begin = now
        self._done, self._total = done, total or self._total
        self._name, self._state = name or self._name, state or self._state
        if now - self._last < LINE_EVERY_S:
            return
        self._last = now
        of = f"{done} of {self._total}" if self._total else str(done)
        parts = [f"{self._name}: {of}", self._state, f"{_clock(now - self._first)} so far"]
        if self._total and done > 0:
            left = (now - self._begin) * (self._total - done) / done
            parts.append(f"{_clock(left)} to go")
        _tell((", ".join(part for part in parts if part), "dim"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@contextmanager
def _progress(name: str, total: int | None = None, percent: bool = False) -> Iterator[Told]:
    """Show on stderr how far it is: a bar with the time to go, or lines where nobody looks."""
    if _quiet:
        yield lambda done, total=None, name="", state="": None
        return
    if not err().is_terminal:
        yield _Lines(name, total)
        return
    from rich import progress as rich

    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TaskProgressColumn() if percent else rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[state]}"),
        rich.TimeElapsedColumn(),
        rich.TextColumn("eta"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(name, total=total, state="")

        def told(done: int, total: int | None = None, name: str = "", state: str = "") -> None:
            known = bar.tasks[task]
            if done < known.completed:  # another pass, with another speed
                bar.reset(task)
            bar.update(
                task,
                completed=done,
                total=total or known.total,
                description=name or known.description,
                state=state or known.fields["state"],
            )

        yield told


class ClipProgress:
    """How many clips are done, with frames per second and time to go."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._done = 0
        self._begin = time.monotonic()

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
        self._begin = time.monotonic()
        self._told(0, len(plan.todo))

    def finished(self, record: ClipRecord, summary: Summary) -> None:
        """Count one clip; speak up about those that are not whole."""
        self._done += 1
        seconds = max(time.monotonic() - self._begin, 1e-6)
        self._told(self._done, state=f"{summary.frames / seconds:.0f} frames/s")
        if not record.status.has_rows:
            warn(f"{record.clip}: {record.status}: {record.message}")


@contextmanager
def clip_progress() -> Iterator[ClipProgress]:
    """Show progress while clips are extracted."""
    with _progress("extracting") as told:
        yield ClipProgress(told)


@contextmanager
def epoch_progress(total: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show progress while a model is trained; yields the callback for epochs.

    It begins anew with the training on train and val together, whose rows say ``of`` how many.
    """
    with _progress("training", total) as told:
        done, again = 0, False

        def epoch(row: dict[str, float]) -> None:
            nonlocal done, again
            name = ""
            if "of" in row and not again:
                done, again, name = 0, True, "training again"
            done += 1
            state = f"val SRC {row['val_src']:.3f}" if "val_src" in row else ""
            told(done, int(row["of"]) if "of" in row else None, name, state)

        yield epoch


@contextmanager
def work_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress of a long pass; yields what is told (done, of all) of its work."""
    with _progress(name, percent=True) as told:
        yield lambda done, total: told(done, total)


@contextmanager
def fold_progress(first: str = "folds") -> Iterator[Callable[[str, int, int | None], None]]:
    """Show progress while folds are fitted, or other steps; yields the callback for each."""
    with _progress(first) as told:
        yield lambda name, done, total: told(done, total, name)


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
