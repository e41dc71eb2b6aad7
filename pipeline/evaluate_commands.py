"""`pipeline evaluate` and `pipeline ablate`: what models are worth, with intervals."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import console

if TYPE_CHECKING:  # the command line must come up at once
    from stages.fit.evaluate import Evaluated
    from stages.fit.study import Design


class Group(StrEnum):
    """What is kept on one side of a fold."""

    PERSON = "person"
    CLIP = "clip"
    AUTO = "auto"


class Normalise(StrEnum):
    """What is predicted."""

    NONE = "none"
    ZSCORE = "zscore"
    RANK = "rank"


Stores = Annotated[
    list[Path] | None,
    typer.Option(
        "--store",
        help="The feature store; several, read as one, if given several times. "
        "[default: features.store]",
    ),
]
LabelFile = Annotated[
    Path, typer.Option("--labels", help="CSV with the columns clip, score [, person, subset, ...].")
]
Folds = Annotated[int, typer.Option("--folds", min=2, help="Parts, each of which is tested once.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="How often clips are dealt anew.")]
GroupOption = Annotated[
    Group,
    typer.Option(
        "--group",
        help="Kept on one side: named persons, each clip by itself, or (auto) persons found by "
        "clustering the embeddings.",
    ),
]
NormaliseOption = Annotated[
    Normalise,
    typer.Option("--normalise", help="Predict the score relative to its subset."),
]
Attributes = Annotated[
    str | None,
    typer.Option(
        "--attributes",
        help="Columns for the attributes-only baseline, with commas between. "
        "[default: gender, sex, age, race, ethnicity where there are such]",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting, as key=value; may be given several times."),
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Folds fitted at once, in processes.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(evaluate)
    app.command()(ablate)


def evaluate(
    models: Annotated[str, typer.Option(help="Models, with commas between.")] = "2stcn",
    store: Stores = None,
    labels: LabelFile = Path("labels.csv"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("evaluation"),
    folds: Folds = 5,
    repeats: Repeats = 5,
    group: GroupOption = Group.AUTO,
    normalise: NormaliseOption = Normalise.NONE,
    attributes: Attributes = None,
    settings: Settings = None,
    jobs: Jobs = 1,
    json: Json = False,
) -> None:
    """Measure models by repeated grouped K-fold, beside the baselines that any must beat.

    Interrupted, the same command goes on. Example: pipeline evaluate --models 2stcn,meanpool
    """
    from stages.fit.evaluate import evaluate as run

    design = _design(store, labels, folds, repeats, group, normalise, attributes)
    names = [name.strip() for name in models.split(",") if name.strip()]
    with console.fold_progress() as progress:
        evaluated = run(design, names, out, settings or [], jobs, console.note, progress)
    _show(evaluated, json)


def ablate(
    store: Stores = None,
    labels: LabelFile = Path("labels.csv"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("ablation"),
    folds: Folds = 5,
    repeats: Repeats = 5,
    group: GroupOption = Group.AUTO,
    normalise: NormaliseOption = Normalise.NONE,
    attributes: Attributes = None,
    settings: Settings = None,
    jobs: Jobs = 1,
    json: Json = False,
) -> None:
    """Repeat the ten rows of the 2S-TCN paper's ablation on your own store and labels.

    Interrupted, the same command goes on. Example: pipeline ablate --jobs 2
    """
    from stages.fit.ablate import ablate as run

    design = _design(store, labels, folds, repeats, group, normalise, attributes)
    with console.fold_progress() as progress:
        evaluated = run(design, out, settings or [], jobs, console.note, progress)
    _show(evaluated, json)


def _design(
    store: list[Path] | None,
    labels: Path,
    folds: int,
    repeats: int,
    group: Group,
    normalise: Normalise,
    attributes: str | None,
) -> Design:
    from pipeline.cli import DEFAULT_STORE
    from stages.fit.study import Design

    return Design(
        tuple(store or [DEFAULT_STORE]),
        labels,
        folds,
        repeats,
        group.value,
        normalise.value,
        attributes=tuple(a.strip() for a in (attributes or "").split(",") if a.strip()),
    )


def _show(evaluated: Evaluated, json: bool) -> None:
    """Print All, in a table and in words, or everything as JSON."""
    from stages.fit.compare import ALL
    from stages.fit.report import REPORT, estimate_text
    from stages.fit.tasks_report import COLUMNS, tasks_rows
    from stages.fit.verdict import difference_sentences, subset_sentences

    comparison = evaluated.comparison
    if json:
        console.emit(
            {
                "out": str(evaluated.folder),
                "groups": evaluated.study.grouping.sentences,
                "rows": [
                    {
                        "contestant": row.name,
                        "subset": row.subset,
                        "clips": row.n,
                        "groups": row.groups,
                        **{name: _finite(vars(e)) for name, e in row.estimates.items()},
                    }
                    for row in comparison.rows
                ],
                "differences": [_finite(vars(d)) for d in comparison.differences],
                "tasks": {n: [vars(a) for a in found] for n, found in evaluated.tasks.items()},
            }
        )
        return
    names = ("src", "pc", "mae", "rmse")
    rows: list[list[object]] = [
        [row.name, *(estimate_text(row.estimates[name]) for name in names), row.n]
        for row in comparison.of(ALL)
    ]
    console.table("", [ALL, *(name.upper() for name in names), "n"], rows)
    if evaluated.tasks:
        console.table("beside the score", list(COLUMNS), tasks_rows(evaluated.tasks))
    for sentence in [
        *subset_sentences(comparison, ALL),
        *difference_sentences(comparison, evaluated.asked),
    ]:
        console.say(sentence)
    console.say(f"report: {evaluated.folder / REPORT}")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
