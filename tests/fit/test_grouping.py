from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import store
from stages.fit.config import FitConfig
from stages.fit.grouping import joined
from stages.fit.persons import PersonsError
from stages.fit.run import fit
from stages.fit.study import Design, Study
from tests.fit.study_clips import make_study

QUICK = {"model": "meanpool", "bootstrap": 100}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """48 clips that look like 12 people."""
    return make_study(tmp_path_factory.mktemp("people"), clips=48, persons=12)


def relabelled(paths: tuple[Path, Path], folder: Path, names: list[str] | None) -> Path:
    """Labels with other names in the column person, or without it."""
    frame = pd.read_csv(paths[1]).drop(columns="person")
    if names is not None:
        frame["person"] = names
    frame.to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def test_groups_are_joined_by_names_and_by_faces() -> None:
    found = ["a", "a", "b", "c", "d", "e"]
    named = ["x", "y", "y", "z", "z", "w"]
    assert joined(found, named) == [f"person {k:04d}" for k in (1, 1, 1, 2, 2, 3)]


def test_a_named_person_of_two_clusters_stands_on_one_side(
    people: tuple[Path, Path], tmp_path: Path
) -> None:
    """6 named persons who look like 12: each had stood in two folds, without a word."""
    names = [f"q{k % 12 // 2}" for k in range(48)]
    labels = relabelled(people, tmp_path, names)
    study = Study(Design((people[0],), labels, folds=4, repeats=2))
    for fold_of in study.grouping.folds:
        assert len(set(zip(names, fold_of.tolist(), strict=True))) == 6
    assert "Groups are the 6 persons that the embeddings and the column person show." in (
        study.grouping.sentences
    )
    clips = Study(replace(study.design, group="clip")).grouping.sentences
    assert any("6 of the 6 persons that the column person names" in line for line in clips)
    assert any("12 of the 12 persons that the embeddings show" in line for line in clips)


def test_fit_keeps_persons_apart_whom_nobody_named(
    people: tuple[Path, Path], tmp_path: Path
) -> None:
    labels = relabelled(people, tmp_path, None)
    told: list[str] = []
    assert store.open(people[0]).provenance["pack"]["name"] == "tiny"
    fit(people[0], labels, tmp_path / "run", FitConfig(**QUICK), told.append)
    split = pd.read_csv(tmp_path / "run" / "split.csv")
    person = split["clip"].str.split("/").str[0]
    assert (split.groupby(person)["part"].nunique() == 1).all()
    assert "Groups are the 12 persons that the embeddings show." in told
    assert any("measured for the pack lite; these embeddings are of tiny" in line for line in told)
    assert not any("LEAK" in line for line in told)

    told.clear()
    fit(people[0], labels, tmp_path / "clips", FitConfig(**QUICK, group="clip"), told.append)
    (leak,) = [line for line in told if "LEAK" in line]
    assert leak.startswith("LEAK: parts made of single clips put ")
    with pytest.raises(PersonsError, match="no column person"):
        fit(people[0], labels, tmp_path / "named", FitConfig(**QUICK, group="person"))


def test_names_that_the_embeddings_agree_with_leave_the_split_as_it_was(
    people: tuple[Path, Path], tmp_path: Path
) -> None:
    for group in ("auto", "person"):
        fit(people[0], people[1], tmp_path / group, FitConfig(**QUICK, group=group))
    auto, named = (pd.read_csv(tmp_path / g / "split.csv") for g in ("auto", "person"))
    np.testing.assert_array_equal(auto["part"], named["part"])
    assert (auto["group"] != named["group"]).all()
