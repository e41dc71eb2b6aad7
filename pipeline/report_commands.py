"""`pipeline report`: a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.errors import NOTHING_KEPT, interrupted
from pipeline.options import FittedRun, Json


def report(
    run: FittedRun = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="Its feature store; several, read as one, if given several times. "
            "[default: where it was when the run was fitted]"
        ),
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(help="The folder that was extracted; without it no frames are shown."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    blur: Annotated[bool, typer.Option("--blur", help="Show no face recognisably.")] = False,
    json: Json = False,
) -> None:
    """Show what a run is worth and what it looks at, on one page that needs no network.

    Example: pipeline report --run runs/2stcn-20261123-171330 --videos videos/ --out report.html
    """
    from pipeline.cli import DEFAULT_RUNS
    from pipeline.report.page import Options, write_report
    from stages.fit.run import newest_run

    chosen = run or newest_run(DEFAULT_RUNS)
    with interrupted(NOTHING_KEPT), console.fold_progress("report") as progress:
        size = write_report(Options(chosen, store, videos, blur), out, progress, console.warn)
    if json:
        console.emit({"report": str(out), "run": str(chosen), "bytes": size})
    else:
        console.say(f"report: {out} ({size / 1e6:.1f} MB)")
