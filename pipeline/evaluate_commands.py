"""`pipeline evaluate` and `pipeline ablate`: what models are worth, with intervals."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import console
from pipeline.options import Json
from store.errors import FacepipeError

if TYPE_CHECKING:  # the command line must come up at once
    from stages.fit.compare import Row
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
    list[str] | None,  # and not Path, which would mangle URLs
    typer.Option(
        "--store",
        help="The feature store, or s3://...; several, read as one, if given several times. "
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
Inner = Annotated[
    int, typer.Option("--inner", min=2, help="Folds of the training clips that compare settings.")
]
Over = Annotated[
    str | None,
    typer.Option(
        "--over",
        help="Search only these settings, with commas between: alpha,delta,channels. "
        "[default: all of the model's space]",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="A best.json of pipeline tune; --set changes it further."),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(evaluate)
    app.command()(ablate)


def evaluate(
    models: Annotated[
        str | None,
        typer.Option(help="Models, with commas between. [default: that of --config, or 2stcn]"),
    ] = None,
    store: Stores = None,
    labels: LabelFile = Path("labels.csv"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("evaluation"),
    folds: Folds = 5,
    repeats: Repeats = 5,
    group: GroupOption = Group.AUTO,
    normalise: NormaliseOption = Normalise.NONE,
    attributes: Attributes = None,
    config: Config = None,
    settings: Settings = None,
    tune: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Measure each model also with settings chosen among so many, within every "
            "training fold.",
        ),
    ] = None,
    inner: Inner = 3,
    over: Over = None,
    jobs: Jobs = 1,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Correlate attention with yaw, roll, mouth and smile."),
    ] = False,
    per_frame: Annotated[
        Path | None,
        typer.Option(help="Folder for a CSV a clip: what each network says of every frame."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure models by repeated grouped K-fold, beside the baselines that any must beat.

    Interrupted, the same command goes on. au, which predicts tracks of frames, stands alone, and
    --labels names its tracks. Example: pipeline evaluate --models 2stcn,meanpool
    """
    if "au" in words(models):
        given = tune or config or explain or per_frame or normalise is not Normalise.NONE
        _check_au_alone(words(models), bool(given))
        from pipeline.cli import DEFAULT_STORE
        from pipeline.frame_fitting import fit_frames

        stores = store or [str(DEFAULT_STORE)]
        source = stores[0] if len(stores) == 1 else stores
        chosen = [f"folds={folds}", f"group={group.value}", *(settings or [])]
        fit_frames("au", source, labels, out, chosen, out.parent, json)
        return
    from stages.fit.evaluate import evaluate as run
    from stages.fit.spaces import Search
    from stages.fit.tuned import read_best

    design = make_design(store, labels, folds, repeats, group, normalise, attributes)
    best = read_best(config) if config else None
    wanted = [*(best.overrides() if best else []), *(settings or [])]
    search = Search(tune, inner, words(over)) if tune else None
    seen = best.tuned_on if best else ()
    names = words(models) if models is not None else (best.model if best else "2stcn",)
    with console.fold_progress() as progress:
        evaluated = run(
            design,
            names,
            out,
            wanted,
            jobs,
            console.note,
            progress,
            search,
            seen,
            explained=explain,
            per_frame=per_frame,
        )
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

    design = make_design(store, labels, folds, repeats, group, normalise, attributes)
    with console.fold_progress() as progress:
        evaluated = run(design, out, settings or [], jobs, console.note, progress)
    _show(evaluated, json)


def _check_au_alone(names: tuple[str, ...], more: bool) -> None:
    """Raise FacepipeError unless `evaluate` was asked for au and nothing that it lacks."""
    if len(names) > 1:
        raise FacepipeError(
            "au predicts tracks of frames, other models a score of clips: no table holds both",
            "evaluate it alone: --models au --labels TRACKS",
        )
    if more:
        raise FacepipeError(
            "au takes no --tune, --config, --explain, --per-frame or --normalise",
            "give its --set alone; `pipeline score --per-frame` writes its tracks of frames",
        )


def words(text: str | None) -> tuple[str, ...]:
    """Split what has commas between."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def make_design(
    store: list[str] | None,
    labels: Path,
    folds: int,
    repeats: int,
    group: Group,
    normalise: Normalise,
    attributes: str | None,
) -> Design:
    """Make the design that the options of `evaluate` describe."""
    from pipeline.cli import DEFAULT_STORE
    from stages.fit.study import Design

    return Design(
        tuple(store or [DEFAULT_STORE]),
        labels,
        folds,
        repeats,
        group.value,
        normalise.value,
        attributes=words(attributes),
    )


def _show(evaluated: Evaluated, json: bool) -> None:
    """Print All, in a table and in words, or everything as JSON."""
    from stages.fit.compare import ALL
    from stages.fit.explain import explain_sentences
    from stages.fit.report import REPORT, estimate_text
    from stages.fit.tasks_report import COLUMNS, tasks_rows
    from stages.fit.verdict import difference_sentences, divergence_sentences, subset_sentences

    comparison = evaluated.comparison
    if json:
        console.emit(
            {
                "out": str(evaluated.folder),
                "groups": evaluated.study.grouping.sentences,
                "rows": [_told(row) for row in comparison.rows],
                "raw_score_rows": [_told(row) for row in comparison.raw],
                "differences": [vars(d) for d in comparison.differences],
                "explain": [
                    {**vars(link), "within": vars(link.within), "pooled": vars(link.pooled)}
                    for link in evaluated.links
                ],
                "tasks": {n: [vars(a) for a in found] for n, found in evaluated.tasks.items()},
                "diverged": {n: [vars(d) for d in lost] for n, lost in evaluated.diverged.items()},
            }
        )
        return
    names = ("src", "pc", "mae", "rmse")
    rows: list[list[object]] = [
        [row.name, *(estimate_text(row.estimates[name]) for name in names), row.n]
        for row in comparison.of(ALL)
    ]
    console.table("", [ALL, *(name.upper() for name in names), "n"], rows)
    if comparison.raw:
        raw = [[r.name, *(estimate_text(r.estimates[n]) for n in names[:2]), r.n]
               for r in comparison.of(ALL, raw=True)]  # fmt: skip
        console.table("", [f"{ALL}, scores as they are", "SRC", "PC", "n"], raw)
    if evaluated.tasks:
        console.table("beside the score", list(COLUMNS), tasks_rows(evaluated.tasks))
    for sentence in [
        *divergence_sentences(evaluated.diverged, evaluated.study.design),
        *subset_sentences(comparison, ALL),
        *difference_sentences(comparison, evaluated.asked),
        *explain_sentences(evaluated.links),
    ]:
        console.result(sentence)
    console.result(f"report: {evaluated.folder / REPORT}")


def _told(row: Row) -> dict[str, Any]:
    return {
        "contestant": row.name,
        "subset": row.subset,
        "clips": row.n,
        "groups": row.groups,
        **{name: vars(estimate) for name, estimate in row.estimates.items()},
    }
