"""`pipeline explore`: a store looked through in the browser."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import console
from store.errors import FacepipeError


class NeedsBokehError(FacepipeError, ImportError):
    """The package that the page is made with is not installed."""


def explore(
    store: Annotated[
        list[str],
        typer.Argument(metavar="STORE", help="A feature store, or several read as one."),
    ],
    videos: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="The folder that was extracted; without it landmarks are shown alone.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes any that is free.")
    ] = 5006,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, once it listens.")
    ] = False,
) -> None:
    """Look through a store on a local page: clips, their embeddings, frames with faces, curves.

    Only this machine can reach it; Ctrl-C ends it.
    Example: pipeline explore features.store --videos videos/
    """
    try:
        from pipeline.explore.server import serving
    except ModuleNotFoundError as error:
        if error.name != "bokeh":
            raise
        raise NeedsBokehError(
            "explore needs the package bokeh, which is not installed",
            "pip install 'facepipe[explore]'",
        ) from None
    import store as package
    from pipeline.explore.content import read

    given: Any = store[0] if len(store) == 1 else store
    with package.open(given) as opened:
        with console.work_progress("reading") as progress:
            content = read(opened, progress)
        with serving(content, videos, port) as server:
            address = f"http://localhost:{server.port}/"
            clips = len(content.clips["clip"])
            if json:
                console.emit({"address": address, "clips": clips})
            else:
                console.result(f"{address} shows {clips} clips; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                server.io_loop.start()
