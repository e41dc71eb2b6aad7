"""Processes that each hold one study: what `--jobs` of evaluate, ablate and tune runs fits in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pebble

from stages.fit.grouping import Grouping
from stages.fit.study import Design, Study
from store.errors import FacepipeError

Schedule = Callable[..., Future[Any]]  # a function of the study first, and its other arguments
_study: Study | None = None


def _start(design: Design, grouping: Grouping) -> None:
    global _study
    _study = Study(design, grouping)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    assert _study is not None
    return function(_study, *args)


@contextmanager
def study_pool(study: Study, jobs: int, killed: FacepipeError) -> Iterator[Schedule]:
    """Give what schedules ``function(study, ...)``; all processes end with the block.

    Raises
    ------
    FacepipeError
        ``killed``, where a process died at its work and its result was waited for.
    """
    # Spawn, not fork: torch and the loaders' threads do not survive a fork.
    with pebble.ProcessPool(
        jobs,
        context=get_context("spawn"),
        initializer=_start,
        initargs=(study.design, study.grouping),
    ) as pool:

        def schedule(function: Callable[..., Any], *args: Any) -> Future[Any]:
            try:
                future: Future[Any] = pool.schedule(_call, args=(function, *args))
            except RuntimeError:  # killed at the wrong moment, a worker takes the pool along
                raise killed from None
            return future

        try:
            yield schedule
        except (pebble.ProcessExpired, BrokenProcessPool):  # the latter: all, before their work
            pool.stop()
            raise killed from None
        except BaseException:
            pool.stop()
            raise
