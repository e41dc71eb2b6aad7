"""A Dask plugin that makes workers meet what a test cannot arrange on one machine."""

from __future__ import annotations

import os
from pathlib import Path

from distributed import WorkerPlugin

from stages.extract import cluster
from stages.extract.inputs import Source
from stages.extract.workers import Result, WorkerSetup


class Spoilt(WorkerPlugin):
    """In every worker: clips named ``poison`` kill it, paths with ``elsewhere`` are not seen."""

    name = "spoilt"

    def setup(self, worker: object) -> None:
        extract, exists = cluster.extract_here, Path.exists

        def poisoned(sources: list[Source], setup: WorkerSetup) -> list[Result]:
            if any(source.clip.startswith("poison") for source in sources):
                os._exit(9)
            return extract(sources, setup)

        def seen(path: Path) -> bool:
            return "elsewhere" not in path.name and exists(path)

        cluster.extract_here = poisoned
        Path.exists = seen  # type: ignore[assignment, method-assign]
