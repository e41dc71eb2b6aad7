"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.extract.device import Device

FittedRun = Annotated[
    Path | None, typer.Option("--run", help="The fitted model. [default: the newest below runs/]")
]
PackOfRun = Annotated[
    str | None,
    typer.Option("--pack", help="Where the run's pack is. [default: found by its name]"),
]
DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device",
        help="Where the nets run; an error where it is not live. auto: cuda, else cpu.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Worker processes. [default: one a core, or GPU]"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
