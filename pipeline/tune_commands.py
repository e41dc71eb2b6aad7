"""`pipeline tune`: settings for a model, chosen without the clips that test it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.evaluate_commands import (
    Folds,
    Group,
    GroupOption,
    Inner,
    LabelFile,
    Normalise,
    NormaliseOption,
    Over,
    Repeats,
    Settings,
    Stores,
    make_design,
    words,
)
from pipeline.options import Json


def tune(
    model: Annotated[str, typer.Option(help="The model.")] = "2stcn",
    store: Stores = None,
    labels: LabelFile = Path("labels.csv"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tuning"),
    trials: Annotated[int, typer.Option(min=1, help="Settings that are tried.")] = 50,
    inner: Inner = 3,
    over: Over = None,
    outer: Annotated[
        str | None,
        typer.Option(
            metavar="R/F",
            help="See only the training clips of fold F of repeat R of pipeline evaluate, both "
            "from 0. [default: all clips on which pipeline fit does not test]",
        ),
    ] = None,
    folds: Folds = 5,
    repeats: Repeats = 5,
    group: GroupOption = Group.AUTO,
    normalise: NormaliseOption = Normalise.NONE,
    seed: Annotated[int | None, typer.Option(min=0, help="The same as --set seed=.")] = None,
    settings: Settings = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Inner folds fitted at once, in processes.")
    ] = 1,
    json: Json = False,
) -> None:
    """Search for a model's settings by inner folds; best.json goes to fit and evaluate.

    Interrupted, the same command goes on. Example: pipeline tune --model 2stcn --trials 50
    """
    from stages.fit.spaces import Search
    from stages.fit.tune import tune as run
    from stages.fit.tuned import BEST

    wanted = [*(settings or []), *([] if seed is None else [f"seed={seed}"])]
    design = make_design(store, labels, folds, repeats, group, normalise, None)
    place = None
    if outer is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", outer.strip())
        if found is None:
            raise typer.BadParameter(f"R/F is needed, such as 0/3, not {outer}")
        place = int(found[1]), int(found[2])
    with console.fold_progress() as progress:
        tuned = run(
            design,
            model,
            out,
            Search(trials, inner, words(over)),
            wanted,
            place,
            jobs,
            console.note,
            lambda done, total: progress("settings tried", done, total),
        )
    best = tuned.best
    if json:
        told = {key: value for key, value in vars(best).items() if key != "tuned_on"}
        console.emit({"out": str(out), **told, "clips": len(best.tuned_on)})
        return
    rows: list[list[object]] = [[key, value] for key, value in best.settings.items()]
    console.table("", ["setting", "value"], rows)
    console.say(
        f"SRC over the inner folds: {best.src:.3f}, with the settings given {best.default_src:.3f}."
    )
    console.say(
        "The highest of many promises too much; pipeline evaluate --tune says what tuning is worth."
    )
    console.say(f"use it: pipeline fit --config {out / BEST}")
