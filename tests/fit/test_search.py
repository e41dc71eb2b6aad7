from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from stages.fit.config import ConfigError, FitConfig
from stages.fit.contestants import Contestant, choose_contestants
from stages.fit.models import names
from stages.fit.pooled_models import POOLED_MODELS, create
from stages.fit.search import SearchError, find_settings, fit_once
from stages.fit.spaces import Between, OneOf, Search, space_of
from stages.fit.study import Design, Study
from stages.fit.trainer import TrainingError
from tests.fit.study_clips import make_study

TINY = ["epochs=1", "batch_size=8", "model.channels=2", "model.levels=1", "refit=false"]
SEARCH = Search(4, 2)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_study(tmp_path_factory.mktemp("searched"), clips=36, persons=12)


@pytest.fixture(scope="module")
def study(paths: tuple[Path, Path]) -> Study:
    return Study(Design((paths[0],), paths[1], folds=3, repeats=1))


@pytest.fixture(scope="module")
def seen(study: Study) -> np.ndarray:
    return study.grouping.folds[0] != 1


def contestant(model: str = "meanpool", search: Search = SEARCH) -> Contestant:
    settings = TINY if model not in POOLED_MODELS else []
    return choose_contestants([model], settings, [])[0].tuned(search)


@pytest.mark.parametrize("model", [*names(), *POOLED_MODELS])
def test_every_models_space_is_of_settings_that_it_takes(model: str) -> None:
    chosen = choose_contestants([model], [], [])[0]
    space = space_of(chosen.config)
    loss = {"train.alpha", "train.delta"}  # which hmtnet does not read
    expected = {"train.lr"} if model == "hmtnet" else loss | {"train.lr"}
    assert model in POOLED_MODELS or {k for k in space if k.startswith("train.")} == expected
    for end in (0, -1):
        ends = {
            key: (allowed.low, allowed.high)[end] if isinstance(allowed, Between)
            else allowed.values[end]
            for key, allowed in space.items()
        }  # fmt: skip
        config = chosen.with_settings(ends).config
        if model in POOLED_MODELS:
            create(model, **config.model_options)
        assert (
            ends.items()
            <= {
                **{f"train.{k}": v for k, v in config.train},
                **{f"model.{k}": v for k, v in config.model_options.items()},
            }.items()
        )


def test_the_space_follows_the_regressor_and_can_be_narrowed() -> None:
    svr = FitConfig.model_validate({"model": "meanpool", "model_options": {"regressor": "svr"}})
    assert set(space_of(svr)) == {"model.c", "model.epsilon", "model.gamma"}
    narrow = space_of(FitConfig(), ["alpha", "train.delta", "channels"])
    assert list(narrow) == ["train.alpha", "train.delta", "model.channels"]
    assert isinstance(narrow["model.channels"], OneOf)
    with pytest.raises(ConfigError, match="'depth' is not searched for 2stcn"):
        space_of(FitConfig(), ["depth"])


def test_the_labels_of_clips_not_seen_cannot_reach_the_choice(
    paths: tuple[Path, Path], study: Study, seen: np.ndarray, tmp_path: Path
) -> None:
    """Permuted, or absurd: every trial comes out the same."""
    frame = pd.read_csv(paths[1])
    hidden = np.flatnonzero(~seen)
    first = find_settings(study, contestant(), seen, 5)
    assert len(first.trials) == 4 and len({src for _, src in first.trials}) > 1
    for values in (
        np.random.default_rng(0).permutation(frame["score"].to_numpy()[hidden]),
        np.linspace(-1e6, 1e6, len(hidden)),
    ):
        frame.loc[hidden, "score"] = values
        frame.to_csv(tmp_path / "labels.csv", index=False)
        spoilt = Study(replace(study.design, labels=tmp_path / "labels.csv"), study.grouping)
        assert find_settings(spoilt, contestant(), seen, 5) == first
    # And those of clips that are seen do reach it.
    frame["score"] = frame["score"].to_numpy()[::-1]
    frame.to_csv(tmp_path / "labels.csv", index=False)
    other = Study(replace(study.design, labels=tmp_path / "labels.csv"), study.grouping)
    assert find_settings(other, contestant(), seen, 5).trials != first.trials


def test_a_network_is_searched_the_same_and_its_settings_are_used(
    study: Study, seen: np.ndarray
) -> None:
    keys = Search(2, 2, ("alpha", "delta", "channels"))
    found = find_settings(study, contestant("2stcn", keys), seen, 1)
    assert [set(tried) for tried, _ in found.trials] == [
        {"train.alpha", "train.delta", "model.channels"}
    ] * 2
    assert found.src == max(found.default_src, *(src for _, src in found.trials))
    tuned = contestant("2stcn", keys)
    prediction, details = study.predict(tuned, 0, 1)
    chosen = tuned.with_settings(details["settings"])
    np.testing.assert_array_equal(prediction, study.predict(chosen, 0, 1)[0])
    assert (details["settings"] == {}) == (details["src"] == details["default_src"])


class Cut(Exception):
    """What stops a search in its middle."""


def test_interrupted_and_resumed_is_the_same_search(
    study: Study, seen: np.ndarray, tmp_path: Path
) -> None:
    search = Search(13, 2)  # beyond the trials that are drawn at random
    whole = find_settings(study, contestant(search=search), seen, 3)
    file, count = tmp_path / "deep" / "search.sqlite", 0

    def cut_off(fits):  # type: ignore[no-untyped-def]
        nonlocal count
        for fit in fits:
            count += 1
            if count == 17:  # in the middle of a trial
                raise Cut
            yield fit_once(study, fit)

    with pytest.raises(Cut):
        find_settings(study, contestant(search=search), seen, 3, file, cut_off)
    done: list[int] = []
    again = find_settings(
        study, contestant(search=search), seen, 3, file, None, lambda k, _: done.append(k)
    )
    assert done == [7, *range(8, 14)]
    assert again == whole
    more = find_settings(study, contestant(search=Search(14, 2)), seen, 3, file)
    assert more.trials[:13] == whole.trials and len(more.trials) == 14
    fewer = find_settings(study, contestant(search=Search(4, 2)), seen, 3, file)
    assert fewer.trials == whole.trials[:4]
    for other, seed in ((contestant("statpool", search), 3), (contestant(search=search), 4)):
        with pytest.raises(SearchError, match="is a search with other clips"):
            find_settings(study, other, seen, seed, file)


def test_what_diverges_is_never_chosen(
    study: Study, seen: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Study.fit_predict

    def diverge(self: Study, who: Contestant, *rest: object) -> object:
        if who.config.model_options:
            raise TrainingError("the loss is not finite")
        return real(self, who, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Study, "fit_predict", diverge)
    found = find_settings(study, contestant(), seen, 0)
    assert found.settings == {} and found.src == found.default_src
    assert {src for _, src in found.trials} == {-1.0}


def test_a_file_that_is_in_use_or_no_search_is_refused(
    study: Study, seen: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "search.sqlite"
    with FileLock(f"{file}.lock"), pytest.raises(SearchError, match="another process"):
        find_settings(study, contestant(), seen, 0, file)
    file.write_text("precious" * 1000)
    with pytest.raises(SearchError, match="is no search, or cannot be written"):
        find_settings(study, contestant(), seen, 0, file)
    assert file.read_text() == "precious" * 1000
    (tmp_path / "file").touch()
    with pytest.raises(SearchError, match="cannot be written"):
        find_settings(study, contestant(), seen, 0, tmp_path / "file" / "search.sqlite")


def test_too_few_groups_for_the_inner_folds(study: Study) -> None:
    few = np.asarray([name in study.grouping.group[:2] for name in study.grouping.group])
    with pytest.raises(SearchError, match="inner folds of 6 clips"):
        find_settings(study, contestant(), few, 0)
