"""`pipeline tune`: settings for one model, chosen without the clips that will test it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from stages.fit.config import FitConfig, apply_overrides, parse_value
from stages.fit.contestants import choose_contestants
from stages.fit.evaluate import open_study
from stages.fit.grouping import find_split
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
from stages.fit.study_pool import study_pool
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
    # What is tested on hangs on it, so that fit must be told.
    grouped = {} if study.design.group == "auto" else {"group": study.design.group}
    best = Best(
        model,
        given | grouped | found.settings,
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
        share = base.split.val, base.split.test
        spans = [study.spans[clip] for clip in study.clips]
        _, parts, _ = find_split(
            study.design.group, study.source, spans, study.labels, share, base.seed
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


@contextmanager
def _fits(study: Study, jobs: int) -> Iterator[RunFits]:
    """Give what runs fits: this process, or several that stay for all trials."""
    if jobs == 1:
        yield partial(map, partial(fit_once, study))
        return
    killed = SearchError(
        "a process that fitted an inner fold was killed, for want of memory most often",
        "run the same command again with fewer --jobs; trials that are done are kept",
    )
    with study_pool(study, jobs, killed) as schedule:

        def run(fits: Sequence[Fit]) -> Iterable[FloatArray | None]:
            waiting = [schedule(fit_once, fit) for fit in fits]
            return (future.result() for future in waiting)

        yield run
