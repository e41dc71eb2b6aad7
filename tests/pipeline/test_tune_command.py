"""`pipeline tune`, and what it writes given to the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fit.study_clips import make_study
from tests.testing.command import called

TINY = [
    part
    for setting in ("epochs=1", "batch_size=8", "refit=false", "bootstrap=100",
                    "model.channels=2", "model.levels=1")
    for part in ("--set", setting)
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_study(folder, clips=36, persons=12)
    return folder


def test_tune_then_fit_and_evaluate(home: Path) -> None:
    search = ["--trials", "2", "--inner", "2", "--over", "alpha,delta", "--group", "person"]
    done = called(home, "tune", *search, *TINY, "--json")
    told = json.loads(done.stdout)
    assert told["model"] == "2stcn" and told["trials"] == 2 and told["clips"] < 36
    assert told["src"] >= told["default_src"]
    assert "clips on which pipeline fit with seed 0 tests" in done.stderr
    again = called(home, "tune", *search, *TINY)
    assert "use it: pipeline fit --config tuning/best.json" in again.stdout

    fitted = json.loads(
        called(home, "fit", "--config", "tuning/best.json", "--run", "run", "--json").stdout
    )
    kept = json.loads((home / "run" / "config.json").read_text())["config"]
    assert fitted["model"] == "2stcn" and kept["train"]["epochs"] == 1
    for key, value in told["settings"].items():
        section, _, leaf = key.partition(".")
        if section == "train" and leaf:
            assert kept["train"][leaf] == value
    other = called(home, "fit", "--config", "tuning/best.json", "--run", "other", "--set", "seed=1")
    assert "OPTIMISTIC" in other.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tune", "--outer", "first"], "R/F is needed"),
        (["fit", "--config", "nothing.json"], "nothing.json: cannot be read"),
    ],
)
def test_mistakes_are_told_in_a_line(home: Path, args: list[str], message: str) -> None:
    done = called(home, *args, code=2)
    assert message in done.stderr and "Traceback" not in done.stderr
