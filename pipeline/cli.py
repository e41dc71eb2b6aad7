"""The command line: `pipeline extract`, `fit`, `score` and what goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import console, evaluate_commands, feature_commands, group, tune_commands
from pipeline.commands import packs_app, store_app
from pipeline.errors import KEPT, NOTHING_KEPT, interrupted, run_reporting
from pipeline.explore_commands import explore
from pipeline.label_commands import labels_app
from pipeline.licence_commands import licences
from pipeline.live_commands import live
from pipeline.model_commands import models
from pipeline.options import DeviceOption, FittedRun, Json, PackOfRun, Workers
from pipeline.report_commands import report
from pipeline.schema_commands import schema
from stages.extract.device import Device, Precision
from stages.extract.recipe import WhichFaces

app = typer.Typer(
    name="pipeline",
    cls=group.CommandLine,
    context_settings={"auto_envvar_prefix": group.PREFIX, "max_content_width": 120},
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would cost every --help a third of a second
    help="From a folder of short face videos to per-frame features, and from those to a score.\n\n"
    "Example: pipeline extract videos/",
)
app.add_typer(packs_app, name="packs")
app.add_typer(store_app, name="store")
app.add_typer(labels_app, name="labels")
evaluate_commands.add_to(app)
app.command()(tune_commands.tune)
feature_commands.add_to(app)
app.command()(models)
app.command()(licences)
app.command()(live)
app.command()(report)
app.command()(explore)
app.command()(schema)

EPILOG = (
    "Every option can also be given in pipeline.toml ([extract] workers = 2) or as an environment "
    "variable (PIPELINE_EXTRACT_WORKERS=2); the command line comes first, then the variable."
)
DEFAULT_STORE = Path("features.store")
DEFAULT_RUNS = Path("runs")

Videos = Annotated[
    list[Path], typer.Argument(help="Folders of videos and still images, or single files.")
]
PerFrame = Annotated[
    Path | None,
    typer.Option(help="Folder for a CSV a clip: each frame's attention, score, part in the score."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from pipeline import __version__

        console.result(f"facepipe {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    config_file: Annotated[
        Path | None,
        typer.Option(
            callback=group.configure,
            is_eager=True,
            help="Options for the commands, in TOML.",
            show_default="pipeline.toml, if it is there",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            callback=group.hush,
            expose_value=False,
            show_envvar=False,
            help="No progress and no notes on stderr; warnings and errors stay.",
        ),
    ] = False,
) -> None: ...


@app.command()
def extract(
    videos: Videos,
    store: Annotated[
        Path | None,
        typer.Option(help="The feature store. [default: features.store, features.I-of-N.store]"),
    ] = None,
    pack: Annotated[str, typer.Option(help="A pack's name, or its folder.")] = "lite",
    device: DeviceOption = Device.AUTO,
    workers: Workers = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Detect on every so many-th frame. [default: the store's, or 5]"),
    ] = None,
    faces: Annotated[
        WhichFaces | None,
        typer.Option(help="The main face, or every track. [default: the store's, or main]"),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Seconds for a clip. [default: by its size]")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Of the embeddings; bf16 with openvino. [default: the store's, or f32]"),
    ] = None,
    crops: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Keep so many aligned pictures of each face. [default: none]"
        ),
    ] = None,
    crop_size: Annotated[
        int | None,
        typer.Option(min=16, max=512, help="Their side. [default: the store's, or 224 pixels]"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Extract clips again that are done.")
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try clips again that failed or were unreadable."),
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Send clips to the Dask cluster at this address; local starts one here."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only the I-th of N parts, for N machines with a store each."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn videos into per-frame features: detect, follow, align, embed, store.

    Running it again does only what is new. Example: pipeline extract videos/
    """
    from stages.extract.inputs import Part
    from stages.extract.run import ExtractOptions
    from stages.extract.run import extract as run
    from stages.extract.run import plan as make_plan

    chosen = Part.parse(part) if part is not None else Part()
    options = ExtractOptions(
        videos,
        store or chosen.store(DEFAULT_STORE),
        pack,
        device,
        workers,
        every=every,
        overwrite=overwrite,
        retry_failed=retry_failed,
        time_limit_s=time_limit,
        faces=faces,
        scheduler=scheduler,
        part=chosen,
        precision=precision,
        crops=crops,
        crop_size=crop_size,
    )
    if dry_run:
        plan = make_plan(options)
        lists = {"extract": plan.todo, "done": plan.done, "changed": plan.changed}
        if json:
            console.emit({name: [s.clip for s in sources] for name, sources in lists.items()})
            return
        for source in plan.todo:
            console.result(f"would extract {source.clip}")
        console.result(", ".join(f"{len(s)} {name}" for name, s in lists.items()))
        return
    with console.clip_progress() as progress:
        summary = run(options, console.note, progress.started, progress.finished)
    if json:
        console.emit(summary.to_dict())
    else:
        console.extraction(summary)
    if set(summary.statuses) == {"failed"}:
        console.warn("every clip of this run failed; once that is mended, --retry-failed goes on")
        raise typer.Exit(1)
    if summary.plan.changed:
        raise typer.Exit(2)


@app.command()
def fit(
    model: Annotated[
        str | None, typer.Option(help="The model to train. [default: that of --config, or 2stcn]")
    ] = None,
    store: Annotated[
        list[str] | None,  # and not Path, which would mangle URLs
        typer.Option(
            help="The feature store, or s3://...; several, read as one, if given several times. "
            "[default: features.store]"
        ),
    ] = None,
    labels: Annotated[
        Path, typer.Option(help="CSV with the columns clip, score [, person, subset, ...].")
    ] = Path("labels.csv"),
    run: Annotated[
        Path | None, typer.Option(help="Folder for the result. [default: runs/MODEL-DATE-TIME]")
    ] = None,
    normalise: evaluate_commands.NormaliseOption = evaluate_commands.Normalise.NONE,
    config: evaluate_commands.Config = None,
    settings: evaluate_commands.Settings = None,
    per_frame: PerFrame = None,
    json: Json = False,
) -> None:
    """Train a temporal model on a store and measure it on people it has not seen.

    Interrupted, the same command with the same --run goes on after the last finished epoch.
    mdr learns from the order of frames and needs no labels; au learns label tracks, which --labels
    then names. Example: pipeline fit --model 2stcn --set lr=0.001 --set features=features.mdr
    """
    from pipeline.fitting import fit_model, show_fit
    from stages.fit.config import OF_FRAMES

    stores = store or [str(DEFAULT_STORE)]
    source = stores[0] if len(stores) == 1 else stores
    if model in OF_FRAMES:  # which learn of frames, not of scores of clips
        from pipeline.frame_fitting import fit_frames
        from store.errors import FacepipeError

        if config or per_frame or normalise is not evaluate_commands.Normalise.NONE:
            raise FacepipeError(
                f"{model} takes no --config, --per-frame or --normalise", "give its --set alone"
            )
        fit_frames(model, source, labels, run, settings or [], DEFAULT_RUNS, json)
        return
    chosen = settings or []
    if normalise is not evaluate_commands.Normalise.NONE:
        chosen = [*chosen, f"normalise={normalise}"]
    fitted = fit_model(
        model, source, labels, run, chosen, DEFAULT_RUNS, config=config, per_frame=per_frame
    )
    if json:
        console.emit(fitted.to_dict())
    else:
        show_fit(fitted)


@app.command()
def score(
    videos: Videos,
    run: FittedRun = None,
    out: Annotated[Path, typer.Option(help="The table of scores.")] = Path("scores.csv"),
    store: Annotated[
        Path | None, typer.Option(help="Keep the features in this store. [default: thrown away]")
    ] = None,
    pack: PackOfRun = None,
    device: DeviceOption = Device.AUTO,
    workers: Workers = None,
    per_frame: PerFrame = None,
    json: Json = False,
) -> None:
    """Score new videos with a fitted model: one row for every file, also those without a score.

    Example: pipeline score new_videos/
    """
    from stages import score as scoring
    from stages.extract.run import ExtractOptions
    from stages.fit.run import newest_run

    chosen = run or newest_run(DEFAULT_RUNS)
    options = ExtractOptions(videos, store or DEFAULT_STORE, device=device, workers=workers)
    told = KEPT if store else "no scores were written; with --store, finished clips would be kept"
    with interrupted(told), console.clip_progress() as progress:
        scored = scoring.score(
            options,
            chosen,
            out,
            store is not None,
            pack,
            per_frame,
            console.note,
            progress.started,
            progress.finished,
        )
    n = scoring.scored(scored)
    if json:
        console.emit({"scores": str(out), "run": str(chosen), "clips": len(scored.table),
                      "scored": n, "extraction": scored.summary.to_dict()})  # fmt: skip
        return
    for line in scoring.without_score(scored):
        console.warn(f"no score for {line}")
    console.result(f"{n} of {len(scored.table)} clips scored with {chosen}: {out}")


@app.command()
def overlay(
    clip: Annotated[Path, typer.Argument(metavar="VIDEO", help="The video itself.")],
    store: Annotated[str, typer.Option(help="The feature store, or s3://...")] = (
        str(DEFAULT_STORE)  # and not Path, which would mangle URLs
    ),
    out: Annotated[Path, typer.Option(help="The video to write.")] = Path("annotated.mp4"),
    name: Annotated[
        str | None, typer.Option("--clip", help="Its id in the store. [default: the file's name]")
    ] = None,
    json: Json = False,
) -> None:
    """Draw what a store holds of a clip on the clip: boxes, landmarks, tracks.

    Example: pipeline overlay videos/a.mp4 --store features.store --out annotated.mp4
    """
    from stages.extract.inputs import clip_id
    from stages.extract.overlay import overlay as draw

    known = name or clip_id(clip.name)
    with interrupted(NOTHING_KEPT), console.work_progress("drawing") as progress:
        frames = draw(known, clip, store, out, progress)
    if json:
        console.emit({"clip": known, "frames": frames, "out": str(out)})
        return
    console.result(f"{frames} frames drawn: {out}")


@app.command()
def doctor(
    store: Annotated[Path, typer.Option(help="Where the feature store is or will be.")] = (
        DEFAULT_STORE
    ),
    json: Json = False,
) -> None:
    """Look for known traps on this machine and say how to mend each; leaves with 1 if one fails.

    Example: pipeline doctor --store /mnt/big/features.store
    """
    from pipeline.doctor import Level, examine, show_findings

    findings = examine(store)
    ok = all(finding.level is not Level.FAIL for finding in findings)
    if json:
        console.emit({"ok": ok, "checks": [finding.to_dict() for finding in findings]})
    else:
        show_findings(findings)
    if not ok:
        raise typer.Exit(1)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of the rendered clips and of the fit.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    json: Json = False,
) -> None:
    """Run the whole path on real faces, with a label planted in their motion.

    Example: pipeline demo --seed 1
    """
    from pipeline.demo.run import run_demo, show_demo

    told = run_demo(folder, seed)
    if json:
        console.emit(told)
    else:
        show_demo(told)


def main() -> None:
    """Entry point of the console script."""
    run_reporting(app)
