from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import store
from stages.fit import fold_runs as engine
from stages.fit.compare import ALL
from stages.fit.contestants import Contestant, choose_contestants
from stages.fit.evaluate import Evaluated, evaluate
from stages.fit.fold_runs import Diverged, StudyError
from stages.fit.guard import TrainingError
from stages.fit.persons import PersonsError
from stages.fit.study import Design, Study
from tests.fit.fit_clips import PROVENANCE, clip_rows, record
from tests.fit.study_clips import make_study

SETTINGS = ["epochs=2", "batch_size=8", "model.channels=4", "model.levels=2", "bootstrap=100"]
FILES = ["report.md", "tables.csv", "comparisons.csv", "predictions.csv"]
Paths = tuple[Path, Path]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """36 clips of 12 people, who can be told apart."""
    return make_study(tmp_path_factory.mktemp("people"))


def design(people: Paths, **changes: object) -> Design:
    return replace(Design((people[0],), people[1], folds=3, repeats=2), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluated(people: Paths, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    return evaluate(design(people), ["2stcn"], folder, SETTINGS)


def test_every_clip_is_predicted_once_a_repeat_by_everyone(evaluated: Evaluated) -> None:
    table = pd.read_csv(evaluated.folder / "predictions.csv")
    assert len(table) == 2 * 36
    names = ["2stcn", "2stcn (frames shuffled)", "meanpool", "attributes only", "constant"]
    assert list(table.columns[7:]) == names
    assert table[names].notna().all().all()
    assert (table.groupby("repeat")["clip"].nunique() == 36).all()
    assert (table.groupby(["repeat", "group"])["fold"].nunique() == 1).all()
    assert (table["target"] == table["score"]).all()


def test_tables_are_those_of_the_predictions(evaluated: Evaluated) -> None:
    table = pd.read_csv(evaluated.folder / "predictions.csv")
    tables = pd.read_csv(evaluated.folder / "tables.csv")
    assert set(tables["subset"]) == {"All", "S0", "S1"}
    for subset in ("All", "S1"):
        rows = table if subset == "All" else table[table["subset"] == subset]
        by_hand = np.mean([stats.spearmanr(t["2stcn"], t["score"]).statistic
                           for _, t in rows.groupby("repeat")])  # fmt: skip
        found = tables.query("subset == @subset and contestant == '2stcn' and statistic == 'src'")
        assert found["value"].item() == pytest.approx(by_hand, abs=1e-9)
        assert found["low"].item() < by_hand < found["high"].item()


def test_the_report_says_who_was_kept_apart_and_what_holds(evaluated: Evaluated) -> None:
    text = (evaluated.folder / "report.md").read_text()
    assert "36 labelled clips in 12 groups (auto); 2 x 3 folds" in text
    assert "The embeddings show 12 persons, the column person names 12" in text
    for title in ("## All: 36 clips", "### Differences on All", "## Subset S0", "## Subset S1"):
        assert title in text
    assert "| constant | undefined | undefined |" in text
    assert "The data supports" in text and "LEAK" not in text


class Cut(Exception):
    """What stops a study in its middle."""


def test_interrupted_and_resumed_gives_the_same_tables(
    evaluated: Evaluated, people: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = tmp_path / "out", []
    real = Study.predict

    def cut_off(self: Study, *task: object) -> object:
        if len(done) == 8:
            raise Cut
        done.append(task)
        return real(self, *task)  # type: ignore[arg-type]

    monkeypatch.setattr(Study, "predict", cut_off)
    with pytest.raises(Cut):
        evaluate(design(people), ["2stcn"], folder, SETTINGS)
    assert len(list(folder.glob("folds/*/*.json"))) == 8
    assert not (folder / "report.md").exists()

    monkeypatch.setattr(Study, "predict", real)
    counts: list[int] = []
    monkeypatch.setattr(engine, "_run_task", _counting(engine._run_task, counts))
    evaluate(design(people), ["2stcn"], folder, SETTINGS)
    assert len(counts) == 5 * 6 - 8
    for name in FILES:
        assert (folder / name).read_bytes() == (evaluated.folder / name).read_bytes(), name


def _counting(real, counts):  # type: ignore[no-untyped-def]
    def run(*args):  # type: ignore[no-untyped-def]
        counts.append(1)
        return real(*args)

    return run


def test_a_model_can_be_added_and_nothing_else_changed(
    evaluated: Evaluated, people: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(evaluated.folder, folder)
    monkeypatch.setattr(engine, "_run_task", None)  # nothing may be fitted
    again = evaluate(design(people), ["meanpool"], folder, SETTINGS[:2] + SETTINGS[4:])
    assert [r.name for r in again.comparison.of(ALL)] == ["meanpool", "attributes only", "constant"]
    assert "2stcn" in json.loads((folder / "config.json").read_text())["contestants"]

    with pytest.raises(StudyError, match="another study; it differs in folds"):
        evaluate(design(people, folds=4), ["2stcn"], folder, SETTINGS)
    with pytest.raises(StudyError, match=r"2stcn: config.train.epochs \(2 there, 3 here\)"):
        evaluate(design(people), ["2stcn"], folder, ["epochs=3", *SETTINGS[1:]])
    with pytest.raises(StudyError, match="seed"):
        evaluate(design(people), ["2stcn"], folder, ["seed=1", *SETTINGS])


def test_a_fold_that_is_not_whole_is_fitted_again(
    evaluated: Evaluated, people: Paths, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(evaluated.folder, folder)
    (folder / "folds" / "meanpool" / "repeat0-fold1.json").write_text('{"predic')
    (folder / "folds" / "constant" / "repeat1-fold0.json").write_text('{"prediction": [1.0]}')
    evaluate(design(people), ["2stcn"], folder, SETTINGS)
    for name in FILES:
        assert (folder / name).read_bytes() == (evaluated.folder / name).read_bytes(), name


def test_a_folder_of_something_else_is_left_alone(people: Paths, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(StudyError, match="not the folder of a study"):
        evaluate(design(people), ["meanpool"], tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudyError, match="not that of a study"):
        evaluate(design(people), ["meanpool"], tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"mine.txt", "config.json"}


@pytest.mark.parametrize("name", ["2stcn", "meanpool", "attributes only", "constant"])
@pytest.mark.parametrize("normalise", ["none", "rank"])
def test_labels_of_the_test_fold_cannot_reach_its_predictions(
    people: Paths, tmp_path: Path, name: str, normalise: str
) -> None:
    """Absurd scores for the tested clips change nothing that is said of them."""
    from stages.fit.contestants import choose_contestants

    first = Study(design(people, normalise=normalise))
    frame = pd.read_csv(people[1])
    test = first.grouping.folds[0] == 1
    frame.loc[test, "score"] = np.linspace(-1e6, 1e6, int(test.sum()))
    spoilt = tmp_path / "spoilt.csv"
    frame.to_csv(spoilt, index=False)
    second = Study(design((people[0], spoilt), normalise=normalise), first.grouping)
    (contestant,) = [
        c for c in choose_contestants(["2stcn"], SETTINGS, ["gender"]) if c.name == name
    ]
    a, b = (s.predict(contestant, 0, 1) for s in (first, second))
    np.testing.assert_array_equal(a[0], b[0])
    assert a[1] == b[1]


def test_folds_of_clips_leak_persons_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    """The label is the person's own: seen persons can be scored, new ones cannot."""
    paths = make_study(tmp_path, clips=72, persons=12, of_person=40.0)
    src = {}
    for group in ("auto", "clip"):
        told: list[str] = []
        folder = tmp_path / group
        found = evaluate(design(paths, group=group), ["meanpool"], folder, ["bootstrap=100"],
                         echo=told.append)  # fmt: skip
        src[group] = found.comparison.of(ALL)[0].src
        assert any("LEAK" in line for line in told) == (group == "clip")
        assert ("LEAK: folds made of single clips put 12 of the 12 persons" in
                (folder / "report.md").read_text()) == (group == "clip")  # fmt: skip
    assert src["clip"].low > 0.6
    assert src["auto"].low < 0


def test_named_persons_are_kept_together_and_checked(people: Paths, tmp_path: Path) -> None:
    study = Study(design(people, group="person"))
    assert len(set(study.grouping.group)) == 12
    assert any("No leak was found" in line for line in study.grouping.sentences)
    frame = pd.read_csv(people[1]).drop(columns="person")
    frame.to_csv(tmp_path / "nameless.csv", index=False)
    with pytest.raises(PersonsError, match="no column person"):
        Study(design((people[0], tmp_path / "nameless.csv"), group="person"))


def test_normalised_labels_recover_an_order_that_subsets_hide(
    people: Paths, tmp_path: Path
) -> None:
    """Channel offsets: an order within each that the levels of the channels swamp."""
    frame = pd.read_csv(people[1])
    who = (frame["gender"] == "f").astype(float)
    frame["score"] = who + 100.0 * (frame["subset"] == "S1") + frame["score"] / 100
    frame.to_csv(tmp_path / "channels.csv", index=False)
    paths = people[0], tmp_path / "channels.csv"
    found = evaluate(design(paths, normalise="zscore", attributes=("gender",)), ["meanpool"],
                     tmp_path / "z", ["bootstrap=100"])  # fmt: skip
    rows = {r.name: r for r in found.comparison.of(ALL)}
    raw = {r.name: r for r in found.comparison.of(ALL, raw=True)}
    assert rows["attributes only"].src.value > 0.7
    assert raw["attributes only"].src.value < rows["attributes only"].src.value - 0.2
    text = (tmp_path / "z" / "report.md").read_text()
    assert "against the scores as they are" in text and "(zscore)" in text


def test_a_fold_is_predicted_once(people: Paths) -> None:
    study, told = Study(design(people)), []
    (network, *_) = choose_contestants(["2stcn"], SETTINGS, [])
    study.predict(network, 0, 0, take=lambda frames: told.append(frames.clip))
    tested = np.asarray(study.clips)[study.grouping.folds[0] == 0]
    assert sorted(told) == sorted(tested)


def test_clips_that_were_extracted_anew_are_another_study(people: Paths, tmp_path: Path) -> None:
    shutil.copytree(people[0], tmp_path / "anew.store")
    clip = Study(design(people)).clips[0]
    with store.Writer(tmp_path / "anew.store", PROVENANCE) as writer:
        (held,) = store.open(people[0]).records(where=f"clip = '{clip}'")
        rows = clip_rows(np.random.default_rng(9), held.frames, 5.0)
        writer.append(record(clip, rows), rows, replace=True)
    one, two = (Study(design(people, store=(path,), group="person")).fingerprint()
                for path in (people[0], tmp_path / "anew.store"))  # fmt: skip
    assert {key for key in one if one[key] != two[key]} == {"clips"}


def test_a_fold_that_diverges_ends_nothing_and_is_told(
    people: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Study.fit_predict

    def diverging(self: Study, contestant: Contestant, seen: object, *rest: object) -> object:
        first = np.array_equal(seen, self.grouping.folds[1] != 0)
        if contestant.name == "2stcn" and first:
            raise TrainingError("the loss is not finite in epoch 3 because of p01/clip001.mp4")
        return real(self, contestant, seen, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Study, "fit_predict", diverging)
    for _ in range(2):  # what diverged is kept like all else
        found = evaluate(design(people), ["2stcn"], tmp_path, SETTINGS, explained=True)
        monkeypatch.setattr(engine, "_run_task", None)
    assert found.diverged == {"2stcn": [Diverged(1, 0, "the loss is not finite in epoch 3 because "
                                                       "of p01/clip001.mp4")]}  # fmt: skip
    folds = found.study.grouping.folds
    mean = found.study.score[folds[1] != 0].mean()
    np.testing.assert_allclose(found.predictions["2stcn"][1, folds[1] == 0], mean)
    text = (tmp_path / "report.md").read_text()
    assert "DIVERGED: training of 2stcn came to no finite result in 1 of 6 folds" in text
    assert "Repeat 1, fold 0: the loss is not finite in epoch 3 because of" in text


class Deadly(Contestant):
    @property
    def slug(self) -> str:
        if multiprocessing.parent_process() is not None:
            os._exit(9)  # as if the system had killed it
        return super().slug


def test_a_killed_process_is_told_and_its_study_goes_on(people: Paths, tmp_path: Path) -> None:
    study = Study(design(people))
    constant = choose_contestants(["2stcn"], SETTINGS, [])[-1]
    deadly = Deadly(constant.name, constant.kind, constant.config)
    with pytest.raises(StudyError, match="was killed"):
        engine.run_folds(study, [deadly], tmp_path, 2)
    assert np.isfinite(engine.run_folds(study, [deadly], tmp_path)["constant"]).all()
