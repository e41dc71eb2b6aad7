from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from stages.fit.config import ConfigError, FitConfig, apply_overrides
from stages.fit.evaluate import evaluate
from stages.fit.run import fit
from stages.fit.search import SearchError
from stages.fit.spaces import Search
from stages.fit.study import Design, Study
from stages.fit.tune import tune
from stages.fit.tuned import optimism, read_best
from tests.fit.study_clips import make_study

TINY = ["epochs=1", "batch_size=8", "model.channels=2", "model.levels=1", "refit=false"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_study(tmp_path_factory.mktemp("tuned"), clips=36, persons=12)


@pytest.fixture(scope="module")
def design(paths: tuple[Path, Path]) -> Design:
    return Design((paths[0],), paths[1], folds=3, repeats=1)


def test_clips_that_fit_tests_on_are_not_seen(design: Design, tmp_path: Path) -> None:
    search = Search(1, 2, ("alpha", "delta"))
    tuned = tune(design, "2stcn", tmp_path / "out", search, TINY)
    best = read_best(tmp_path / "out" / "best.json")
    assert best == tuned.best
    config = apply_overrides(FitConfig(model=best.model), best.overrides())
    assert config.train.epochs == 1 and config.model_options == {"channels": 2, "levels": 1}
    result = fit(design.store[0], design.labels, tmp_path / "run", config)
    split = pd.read_csv(result.run_dir / "split.csv")
    tested = split.loc[split["part"] == "test", "clip"]
    assert set(best.tuned_on) == set(split["clip"]) - set(tested)
    assert optimism(tested.tolist(), best.tuned_on) == ""


def test_the_clips_of_a_named_fold_are_not_seen_and_jobs_change_nothing(
    design: Design, tmp_path: Path
) -> None:
    found = [
        tune(design, "meanpool", tmp_path / str(jobs), Search(3, 2), [], (0, 2), jobs)
        for jobs in (1, 2)
    ]
    assert found[0].found == found[1].found
    assert (tmp_path / "1" / "best.json").read_bytes() == (
        tmp_path / "2" / "best.json"
    ).read_bytes()
    study = Study(design)
    tested = {c for c, f in zip(study.clips, study.grouping.folds[0], strict=True) if f == 2}
    assert set(found[0].best.tuned_on) == set(study.clips) - tested
    table = pd.read_csv(tmp_path / "1" / "trials.csv")
    assert len(table) == 3 and table["src"].tolist() == [s for _, s in found[0].found.trials]
    with pytest.raises(SearchError, match="no fold 3 in repeat 0"):
        tune(design, "meanpool", tmp_path / "3", Search(1, 2), [], (0, 3))


def die(study: Study, fit: object) -> None:
    os._exit(9)  # as if the system had killed it


def test_a_killed_process_is_told_in_a_line(
    design: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.fit.tune.fit_once", die)
    with pytest.raises(SearchError, match="a process that fitted an inner fold was killed"):
        tune(design, "meanpool", tmp_path / "out", Search(1, 2), jobs=2)


def test_what_tells_fit_whom_to_keep_together_is_kept(
    design: Design, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without a column person, by the embeddings; and as another --group says."""
    frame = pd.read_csv(paths[1]).drop(columns="person")
    frame.to_csv(tmp_path / "nameless.csv", index=False)
    for group, apart in (("auto", True), ("clip", False)):
        asked = replace(design, labels=tmp_path / "nameless.csv", group=group)
        best = tune(asked, "meanpool", tmp_path / group, Search(1, 2)).best
        config = apply_overrides(FitConfig(model="meanpool"), best.overrides())
        assert config.group == group
        result = fit(design.store[0], asked.labels, tmp_path / f"run {group}", config)
        split = pd.read_csv(result.run_dir / "split.csv")
        tested = split["part"] == "test"
        assert set(best.tuned_on) == set(split["clip"][~tested])
        persons = [set(split["clip"][side].str[:3]) for side in (tested, ~tested)]
        assert (not persons[0] & persons[1]) == apart


def test_settings_are_chosen_within_every_outer_fold(design: Design, tmp_path: Path) -> None:
    search = Search(2, 2)
    settings = ["bootstrap=100", "model.regressor=svr"]
    done = evaluate(design, ["meanpool"], tmp_path, settings, search=search)
    assert done.asked == ["meanpool", "meanpool (tuned)"]
    assert {r.name for r in done.comparison.rows} >= {"meanpool (tuned)", "meanpool", "constant"}
    folds = [json.loads(f.read_text()) for f in tmp_path.glob("folds/meanpool-tuned/*.json")]
    assert len(folds) == 3 and all(fold["src"] >= fold["default_src"] for fold in folds)
    assert len(list(tmp_path.glob("searches/meanpool-tuned/*.sqlite"))) == 3
    text = (tmp_path / "report.md").read_text()
    assert "## What was chosen for meanpool (tuned)" in text and "| model.gamma |" in text
    assert "OPTIMISTIC" not in text


def test_settings_chosen_by_the_tested_clips_are_called_optimistic(
    design: Design, tmp_path: Path
) -> None:
    best = tune(design, "meanpool", tmp_path / "t", Search(1, 2), [], (0, 0)).best
    told: list[str] = []
    evaluate(
        design, ["meanpool"], tmp_path / "e", ["bootstrap=100", *best.overrides()],
        echo=told.append, tuned_on=best.tuned_on,
    )  # fmt: skip
    sentence = f"by labels of {len(best.tuned_on)} of the 36 clips"
    assert any(sentence in line for line in told)
    assert sentence in (tmp_path / "e" / "report.md").read_text()


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"format": 1, "model": "2stcn"}'])
def test_what_is_no_best_json_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "best.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match="best.json"):
        read_best(file)
