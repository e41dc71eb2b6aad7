"""The folder of a study: report.md for people, CSV tables for everything else."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.fit.compare import ALL, Comparison, Estimate, Row
from stages.fit.fold_runs import StudyError
from stages.fit.study import Study
from stages.fit.verdict import difference_sentences, p_value, span, subset_sentences
from store.printable import printable
from store.tables import write_csv

CONFIG, REPORT, TABLES, COMPARISONS, PREDICTIONS = (
    "config.json",
    "report.md",
    "tables.csv",
    "comparisons.csv",
    "predictions.csv",
)
FORMAT = 1
NOTES = """\
SRC is Spearman's rank correlation, PC Pearson's; MAE and RMSE are in units of what is predicted.
Each clip is predicted by models that were fitted without its group; a statistic is taken over all
clips of one repeat and averaged over the repeats. Brackets hold 95 % intervals of a bootstrap that
draws whole groups, those of MAE and RMSE of a jackknife that leaves them out, with Student's t for
few of them (stages/fit/bootstrap.py, jackknife.py). They say what other clips of such people would
have given to these models; what other training clips would have changed is in them only as far as
the folds differ. Differences are paired on the same draws. Their
intervals are each difference's own; p (Holm) and the sentences are corrected for all the
differences of the table, so that one whose interval leaves out 0 need not be supported.
The constant has no SRC: pooled over folds it would only say that the mean of the others is low
where a fold lies high."""


def check_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Make a folder for a study, or make sure that the one there holds folds of the same study.

    Contestants may be added and left out; what is settled otherwise may not change.

    Parameters
    ----------
    folder : Path
    wanted : dict
        ``study`` (the fingerprint) and ``contestants`` (settings by name), as JSON types.

    Raises
    ------
    StudyError
        Names what differs.
    """
    file = folder / CONFIG
    kept: dict[str, Any] = {}
    if file.is_file():
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            study, kept = held["study"], held["contestants"]
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{file}: is not that of a study ({error})", "give another --out"
            ) from None
        differ = [key for key, value in wanted["study"].items() if study.get(key) != value]
        for name, settings in wanted["contestants"].items():
            if name in kept and kept[name] != settings:
                differ += _differing(f"{name}: ", kept[name], settings)
        if differ:
            raise StudyError(
                f"{folder} holds folds of another study; it differs in {', '.join(differ)}",
                "give another --out, or remove that folder",
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise StudyError(f"{folder} is not the folder of a study", "give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(_with(wanted, kept), indent=2) + "\n")
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written ({error.strerror})") from None


def _with(wanted: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, **wanted, "contestants": {**kept, **wanted["contestants"]}}


def _differing(prefix: str, held: Any, wanted: Any) -> list[str]:
    """Names of the settings that differ between two trees of them."""
    if not (isinstance(held, dict) and isinstance(wanted, dict)):
        return [] if held == wanted else [f"{prefix} ({held} there, {wanted} here)"]
    found = []
    for key in sorted({*held, *wanted}):
        name = f"{prefix.rstrip('.')}.{key}" if not prefix.endswith(": ") else f"{prefix}{key}"
        found += _differing(name, held.get(key), wanted.get(key))
    return found


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def estimate_text(estimate: Estimate, undefined: str = "undefined") -> str:
    """Return an estimate with its interval."""
    if math.isnan(estimate.value):
        return undefined
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f} [no interval]"
    return f"{estimate.value:.3f} [{span(estimate.low, estimate.high)}]"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def rows_table(rows: Sequence[Row], errors: bool = True) -> str:
    """Contestants on one subset."""
    names = ["src", "pc", "mae", "rmse"] if errors else ["src", "pc"]
    cells = [
        [row.name, *(estimate_text(row.estimates[name]) for name in names)]  # type: ignore[index]
        for row in rows
    ]
    return markdown_table(["", *(name.upper() for name in names)], cells)


def report_text(
    study: Study,
    comparison: Comparison,
    asked: Sequence[str],
    title: str,
    lead: str = "",
    after: str = "",
) -> str:
    """Return the report in Markdown: the data, a table for All and each subset, and verdicts.

    ``lead`` and ``after``: Markdown that stands before and behind the tables.
    """
    design = study.design
    groups = comparison.of(ALL)[0].groups
    parts = [
        f"# {title}",
        f"{len(study.clips)} labelled clips in {groups} groups ({design.group}); "
        f"{design.repeats} x {design.folds} folds, seed {design.seed}; within each training fold "
        f"{design.val:.0%} of the clips, whole groups, choose the epoch. Labels: "
        + _target_text(design.normalise),
        *study.grouping.sentences,
    ]
    if lead:
        parts.append(lead)
    for subset in comparison.subsets():
        rows = comparison.of(subset)
        parts.append(f"## {_subset_title(subset)}: {rows[0].n} clips in {rows[0].groups} groups")
        parts.append(rows_table(rows))
        parts.append(" ".join(subset_sentences(comparison, subset)))
        if subset == ALL:
            parts += _differences(comparison, asked)
    if comparison.raw:
        parts.append("## The same predictions against the scores as they are")
        parts.append(
            "Predictions are relative to a clip's subset here; what they say of the score itself "
            "is less, by what subsets differ."
        )
        for subset in comparison.subsets():
            parts += [
                f"### {_subset_title(subset)}",
                rows_table(comparison.of(subset, raw=True), False),
                " ".join(subset_sentences(comparison, subset, raw=True)),
            ]
    if after:
        parts.append(after)
    return "\n\n".join([*parts, "## How to read this", NOTES]) + "\n"


def _subset_title(subset: str) -> str:
    return subset if subset == ALL else f"Subset {markdown_text(subset)}"


def markdown_text(text: str) -> str:
    """Return text that a label file holds so that it shows as it is: neither Markdown nor HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!()])", r"\\\1", printable(text))


def _target_text(normalise: str) -> str:
    if normalise == "none":
        return "the scores as they are."
    return f"scores relative to their subset ({normalise}), fitted on training folds only."


def _differences(comparison: Comparison, asked: Sequence[str]) -> list[str]:
    if not comparison.differences:
        return []
    rows = [
        [d.first, d.second, f"{d.value:+.3f} [{span(d.low, d.high)}]", p_value(d.p),
         p_value(d.p_holm)]
        for d in comparison.differences
    ]  # fmt: skip
    columns = ["first", "second", "SRC first - second", "p", "p (Holm)"]
    return [
        "### Differences on All",
        markdown_table(columns, rows),
        " ".join(difference_sentences(comparison, asked)),
    ]


def write_tables(folder: Path, comparison: Comparison) -> None:
    """Write tables.csv (a line a contestant, subset and statistic) and comparisons.csv."""
    lines = [
        {
            "target": target,
            "subset": row.subset,
            "contestant": row.name,
            "clips": row.n,
            "groups": row.groups,
            "statistic": statistic,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for target, rows in (("target", comparison.rows), ("raw score", comparison.raw))
        for row in rows
        for statistic, estimate in row.estimates.items()
    ]
    write_csv(pd.DataFrame(lines), folder / TABLES)
    columns = ["first", "second", "value", "low", "high", "p", "p_holm"]
    differences = pd.DataFrame([vars(d) for d in comparison.differences], columns=columns)
    write_csv(differences, folder / COMPARISONS)


def write_predictions(
    folder: Path,
    study: Study,
    target: npt.NDArray[np.float64],
    predictions: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """Write predictions.csv: a line a clip and repeat, a column a contestant."""
    tables = []
    for repeat, fold in enumerate(study.grouping.folds):
        table = study.table[["clip", "subset", "score"]].assign(
            group=study.grouping.group, repeat=repeat, fold=fold, target=target[repeat]
        )
        tables.append(table.assign(**{name: p[repeat] for name, p in predictions.items()}))
    write_csv(pd.concat(tables), folder / PREDICTIONS)
