"""`pipeline live`: a camera or a file scored while it runs."""

from __future__ import annotations

from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.options import DeviceOption, FittedRun, Json, PackOfRun
from stages.extract.device import Device


def live(
    source: Annotated[str, typer.Option(help="A camera's number, or a video file.")] = "0",
    run: FittedRun = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write an mp4. [default: a window; live.mp4 where there is no screen]"),
    ] = None,
    pack: PackOfRun = None,
    device: DeviceOption = Device.AUTO,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Detect at least on every so many-th frame. [default: the run's]"),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds that are scored. [default: all of a file, 60 of a camera]"
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Keep the rows that were scored in this store.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a camera or a file while it runs: box, landmarks, running score with its 95 % interval.

    Ends with the file, with q in the window, or with Ctrl-C. Example: pipeline live --source 0
    """
    from pipeline.cli import DEFAULT_RUNS
    from stages.fit.run import newest_run
    from stages.live import LiveOptions
    from stages.live import live as run_live

    chosen = run or newest_run(DEFAULT_RUNS)
    options = LiveOptions(source, chosen, out, pack, device, every, window, store)
    with console.fold_progress("frames") as told_frames:
        result = run_live(options, console.note, partial(told_frames, "frames"))
    told = result.to_dict()
    if json:
        console.emit({"source": source, "run": str(chosen), **told})
        return
    score = "no face" if result.score is None else f"score {result.score:.6g}"
    low, high = result.interval
    if isfinite(low):
        score += f" (95 % interval {low:.4g} to {high:.4g})"
    latency = told["latency_ms"]
    console.result(
        f"{result.frames} frames, {result.valid_frames} with the face: {score}; "
        f"{told['frames_per_s']:.1f} frames/s, {latency['median']:.1f} ms a frame, "
        f"95 % within {latency['p95']:.1f} ms"
    )
    if result.out:
        console.result(f"written: {result.out}")
