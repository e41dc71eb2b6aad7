"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FittedRun = Annotated[
    Path | None, typer.Option("--run", help="The fitted model. [default: the newest below runs/]")
]
PackOfRun = Annotated[
    str | None,
    typer.Option("--pack", help="Where the run's pack is. [default: found by its name]"),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Worker processes. [default: one a core, or GPU]"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
