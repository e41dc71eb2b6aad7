"""Settings that rank best in inner folds of the clips that may be seen; a search can be resumed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from stages.fit.contestants import Contestant
from stages.fit.folds import grouped_folds
from stages.fit.guard import TrainingError
from stages.fit.metrics import spearman
from stages.fit.protocol import SplitError
from stages.fit.spaces import Between, Space
from store.errors import FacepipeError

if TYPE_CHECKING:  # a study searches, too
    import optuna

    from stages.fit.study import Study

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# One fit: the contestant, clips seen, clips predicted (n,), seed.
Fit = tuple[Contestant, BoolArray, BoolArray, int]
RunFits = Callable[[Sequence[Fit]], Iterable[FloatArray | None]]
STARTUP = 10  # trials drawn at random before the sampler learns from them
DIVERGED = -1.0


class SearchError(FacepipeError, ValueError):
    """A search cannot be made, or goes on from one that is not it."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes
    ----------
    settings : dict
        key: value of what ranked best; empty where nothing beat the settings that were there.
    src, default_src : float
        Pooled SRC over the inner folds, of these and of those that were there. ``src`` is the
        highest of many and promises too much.
    trials : list of (dict, float)
        All that was tried, in order, and its SRC.
    """

    settings: dict[str, Any]
    src: float
    default_src: float
    trials: list[tuple[dict[str, Any], float]]

    def to_dict(self) -> dict[str, Any]:
        """Return what is kept beside a fold's predictions."""
        return {"settings": self.settings, "src": self.src, "default_src": self.default_src}


def fit_once(study: Study, fit: Fit) -> FloatArray | None:
    """Predictions of one fit; None if training diverged."""
    try:
        return study.fit_predict(*fit)[0]
    except TrainingError:
        return None


def find_settings(
    study: Study,
    contestant: Contestant,
    seen: BoolArray,
    seed: int,
    file: Path | None = None,
    run: RunFits | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Found:
    """Search for a contestant's settings by folds of the clips that may be seen, and of no other.

    The clips seen are dealt to inner folds, whole groups; each setting's predictions of all of them
    are pooled and ranked. Labels of other clips are not read. The same seed gives the same trials,
    and a search that was interrupted the same as one that was not: the sampler is seeded anew for
    every trial.

    Parameters
    ----------
    study : Study
    contestant : Contestant
        With a ``search``.
    seen : (n,) bool
    seed : int
        Of the inner folds, of the sampler and of every fit.
    file : Path, optional
        SQLite database of optuna's that keeps the trials; left out, they are not kept.
    run : callable, optional
        Runs fits, in any way; left out, one by one.
    progress : callable
        Gets how many trials are done, and of how many.

    Raises
    ------
    SearchError
        ``file`` is another search's, or in use, optuna is missing, or there are too few clips or
        groups for the inner folds.
    SplitError
        Too few in one of them to choose the epoch.
    """
    search = contestant.search
    assert search is not None
    space = search.space(contestant.config)
    fits = run or (lambda tasks: (fit_once(study, task) for task in tasks))
    rows = np.flatnonzero(seen)
    group = [study.grouping.group[row] for row in rows]
    inner = np.full(len(seen), -1)
    try:
        inner[rows] = grouped_folds(study.score[rows], group, search.inner, 1, seed)[0]
    except SplitError as error:
        raise SearchError(
            f"inner folds of {len(rows)} clips that may be seen: {error}",
            "ask for fewer --inner folds, or label clips of more persons",
        ) from None

    def value(candidate: Contestant) -> float:
        parts = [(seen & (inner != k), inner == k) for k in range(search.inner)]
        prediction, target = np.full((2, len(seen)), np.nan)
        tasks = [(candidate, train, test, seed) for train, test in parts]
        for (train, test), found in zip(parts, fits(tasks), strict=True):
            if found is None:
                return DIVERGED
            prediction[test], target[test] = found, study.target_by(train)[test]
        src = spearman(prediction[rows], target[rows])
        return 0.0 if math.isnan(src) else src  # all alike: no order at all

    what = contestant.settings() | study.fingerprint() | {"rows": rows.tolist(), "seed": seed}
    what["search"] = {k: v for k, v in what["search"].items() if k != "trials"}
    with _opened(file, hashlib.sha256(json.dumps(what).encode()).hexdigest()) as held:
        if "default_src" not in held.user_attrs:
            held.set_user_attr("default_src", value(contestant.with_settings({})))
        default = float(held.user_attrs["default_src"])
        done = len(_complete(held)[: search.trials])
        progress(done, search.trials)
        for number in range(done, search.trials):
            trial = _ask(held, space, seed, number)
            held.tell(trial, value(contestant.with_settings(trial.params)))
            progress(number + 1, search.trials)
        trials = _complete(held)[: search.trials]
    settings, src = max(trials, key=lambda found: found[1], default=({}, -math.inf))
    if src <= default:
        settings, src = {}, default
    return Found(settings, src, default, trials)


@contextmanager
def _opened(file: Path | None, what: str) -> Iterator[optuna.Study]:
    """Open or begin the search of a file, which no other process may have open."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise SearchError(
            "settings are searched for with optuna, which is not installed",
            "pip install 'facepipe[tune]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if file is None:
        yield _begun(file, what)
        return
    lock = FileLock(f"{file}.lock", is_singleton=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise SearchError(
            f"{file}: another process is at this search", "wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise SearchError(
            f"{file}: cannot be written ({error.strerror})", "give another --out"
        ) from None
    try:
        yield _begun(file, what)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise SearchError(
            f"{file}: is no search, or cannot be written ({reason})", "give another --out"
        ) from None
    finally:
        lock.release()


def _begun(file: Path | None, what: str) -> optuna.Study:
    """Open or begin a search; trials that a kill left behind are closed."""
    import optuna

    held = optuna.create_study(
        storage=None if file is None else f"sqlite:///{file}",
        study_name="search",
        direction="maximize",
        load_if_exists=True,
    )
    if held.user_attrs.get("what", what) != what:
        raise SearchError(
            f"{file}: is a search with other clips, labels, folds or settings",
            "give another --out, or remove that folder",
        )
    held.set_user_attr("what", what)
    for trial in held.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        held.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return held


def _ask(held: optuna.Study, space: Space, seed: int, number: int) -> optuna.Trial:
    """Let the sampler propose; what it draws hangs on the trials done, the seed and the number."""
    import optuna

    state = np.random.SeedSequence([seed, number]).generate_state(1)
    held.sampler = optuna.samplers.TPESampler(
        seed=int(state[0]), n_startup_trials=STARTUP, constant_liar=False
    )
    trial = held.ask()
    for key, allowed in space.items():
        if isinstance(allowed, Between):
            trial.suggest_float(key, allowed.low, allowed.high, log=allowed.log)
        else:
            trial.suggest_categorical(key, allowed.values)
    return trial


def _complete(held: optuna.Study) -> list[tuple[dict[str, Any], float]]:
    import optuna

    done = held.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return [(trial.params, float(trial.values[0])) for trial in done]
