"""`pipeline tune`: settings for one model, chosen without the clips that will test it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from stages.fit.config import FitConfig, apply_overrides, parse_value
from stages.fit.contestants import choose_contestants
from stages.fit.evaluate import open_study
from stages.fit.grouping import Grouping
from stages.fit.protocol import split_groups
from stages.fit.report import write_text
from stages.fit.search import (
    BoolArray,
    Fit,
    FloatArray,
    Found,
    RunFits,
    SearchError,
    find_settings,
    fit_once,
)
from stages.fit.spaces import Search
from stages.fit.study import Design, Echo, Study
from stages.fit.tuned import BEST, Best

DATABASE, TRIALS = "search.sqlite", "trials.csv"


@dataclass(frozen=True)
class Tuned:
    """A search that is done: its folder, what was found, and what best.json says."""

    folder: Path
    found: Found
    best: Best


def tune(
    design: Design,
    model: str,
    folder: Path,
    search: Search,
    settings: Sequence[str] = (),
    outer: tuple[int, int] | None = None,
    jobs: int = 1,
    echo: Echo = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Tuned:
    """Search for a model's settings and write best.json, trials.csv and search.sqlite.

    Which clips are seen: without ``outer`` all that `pipeline fit` with the same labels and
    settings does not test on; with it the training part of that fold of `pipeline evaluate`. Labels
    of the others have no part in the choice. Run again, the search goes on.

    Parameters
    ----------
    design : Design
        As for ``evaluate``.
    model : str
        A network, or a model that pools over time.
    folder : Path
    search : Search
    settings : sequence of str
        key=value; what stands fast while others are searched for.
    outer : (repeat, fold), optional
    jobs : int
        Processes, each for one inner fold at a time; they change the time and not the result.
    echo, progress : callable
        Get lines to show; trials done, and of how many.

    Raises
    ------
    StoreError, LabelError, ConfigError, ModelError, SplitError, PersonsError, SearchError
    """
    base = apply_overrides(FitConfig(), [t for t in settings if not t.strip().startswith("model.")])
    contestant = choose_contestants([model], settings, [])[0].tuned(search)
    study = open_study(design, base, echo)
    seen, protocol = _seen(study, base, outer)
    echo(protocol)
    with _fits(study, jobs) as run:
        file = folder / DATABASE
        found = find_settings(study, contestant, seen, base.seed, file, run, progress)
    given = {
        key.strip(): parse_value(value) for key, _, value in (t.partition("=") for t in settings)
    }
    best = Best(
        model,
        given | found.settings,
        found.src,
        found.default_src,
        len(found.trials),
        search.inner,
        base.seed,
        protocol,
        [study.clips[row] for row in np.flatnonzero(seen)],
    )
    table = pd.DataFrame([{"src": src, **tried} for tried, src in found.trials])
    write_text(folder / TRIALS, table.to_csv(index_label="trial"))
    best.write(folder / BEST)
    return Tuned(folder, found, best)


def _seen(study: Study, base: FitConfig, outer: tuple[int, int] | None) -> tuple[BoolArray, str]:
    """Which clips a search may see (n,), and that in words."""
    folds = study.grouping.folds
    if outer is None:
        split = base.split
        parts = split_groups(
            study.score, study.labels.groups, val=split.val, test=split.test, seed=base.seed
        )
        seen = np.asarray([part != "test" for part in parts])
        left = f"the {int((~seen).sum())} clips on which pipeline fit with seed {base.seed} tests"
    else:
        repeat, fold = outer
        if not (0 <= repeat < len(folds) and 0 <= fold < study.design.folds):
            raise SearchError(
                f"there is no fold {fold} in repeat {repeat}: {len(folds)} repeats of "
                f"{study.design.folds} folds, both counted from 0",
                "for example --outer 0/0",
            )
        seen = np.asarray(folds[repeat] != fold)
        left = f"the {int((~seen).sum())} clips of fold {fold} of repeat {repeat}"
    return seen, f"{int(seen.sum())} clips are seen; {left} are not."


_worker: Study | None = None


def _start_worker(design: Design, grouping: Grouping) -> None:
    global _worker
    _worker = Study(design, grouping)


def _work(fit: Fit) -> FloatArray | None:
    assert _worker is not None
    return fit_once(_worker, fit)


@contextmanager
def _fits(study: Study, jobs: int) -> Iterator[RunFits]:
    """Give what runs fits: this process, or several that stay for all trials."""
    if jobs == 1:
        yield partial(map, partial(fit_once, study))
        return
    with ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(study.design, study.grouping),
    ) as pool:

        def run(fits: Sequence[Fit]) -> Iterable[FloatArray | None]:
            return pool.map(_work, fits)

        try:
            yield run
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
