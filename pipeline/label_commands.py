"""`pipeline labels ...`: scores for clips that nobody rated."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.group import Group
from pipeline.options import Json

labels_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Labels: the scores that a model learns.\n\nExample: pipeline labels from-info videos/",
)
SHOWN = 10  # clips that are left out, in full; all are in the file beside the labels


@labels_app.callback()
def _labels() -> None: ...


@labels_app.command("from-info")
def from_info(
    videos: Annotated[
        list[Path], typer.Argument(help="Folders of clips with .info.json files beside them.")
    ],
    out: Annotated[Path, typer.Option(help="The file of labels.")] = Path("labels.csv"),
    score: Annotated[
        str,
        typer.Option(
            metavar="FORMULA",
            help="like-rate, log-likes-given-views, age-corrected, or arithmetic over likes, "
            "views, comments, reposts, saves, followers, duration_s, age_days, or any other "
            "number in the files.",
        ),
    ] = "like-rate",
    min_views: Annotated[
        int, typer.Option(min=0, help="Leave out clips with fewer views than so many.")
    ] = 0,
    json: Json = False,
) -> None:
    """Score clips by the likes and views that yt-dlp noted beside them; subset is the channel.

    Such a score is a proxy with known faults: docs/labels.md.
    Example: pipeline labels from-info videos/ --score "log1p(likes + 3 * reposts) - log1p(views)"
    """
    from pipeline.automatic_labels import labels_from_info

    with console.fold_progress() as progress:
        written = labels_from_info(videos, out, score, min_views, partial(progress, "clips"))
    labels = written.labels
    if json:
        console.emit({"score": score, **written.to_dict()})
        return
    for file, reason in labels.left_out[:SHOWN]:
        console.warn(f"left out: {file}: {reason}")
    if len(labels.left_out) > SHOWN:
        console.warn(f"and {len(labels.left_out) - SHOWN} more: {written.left_out}")
    for note in labels.notes:
        console.note(note)
    channels = labels.table["subset"].nunique()
    console.result(
        f"{len(labels.table)} clips of {channels} channels scored by {score}, "
        f"{len(labels.left_out)} files left out: {out}"
    )
