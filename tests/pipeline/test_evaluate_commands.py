"""`pipeline evaluate` and `pipeline ablate` as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fit.study_clips import make_study
from tests.testing.command import ENV, called

QUICK = [
    *("--folds", "2", "--repeats", "1"),
    *(part for setting in ("epochs=1", "batch_size=8", "bootstrap=100", "refit=false")
      for part in ("--set", setting)),
]  # fmt: skip
TINY = ["--set", "model.channels=2", "--set", "model.levels=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and labels under their default names."""
    folder = tmp_path_factory.mktemp("home")
    make_study(folder, clips=24, persons=12)
    return folder


def test_evaluate_prints_a_table_and_what_it_supports(home: Path) -> None:
    done = called(home, "evaluate", "--models", "2stcn,meanpool", *QUICK, *TINY)
    first = [line.split("  ")[0].strip() for line in done.stdout.splitlines()]
    for name in ("2stcn", "2stcn (frames shuffled)", "meanpool", "attributes only", "constant"):
        assert name in first
    assert "The data supports" in done.stdout
    assert "report: evaluation/report.md" in done.stdout
    assert "Groups are the 12 persons" in done.stderr
    assert {p.name for p in (home / "evaluation").iterdir()} == {
        "config.json", "report.md", "tables.csv", "comparisons.csv", "predictions.csv", "folds",
    }  # fmt: skip

    again = called(home, "evaluate", "--models", "2stcn,meanpool", *QUICK, *TINY, "--json")
    told = json.loads(again.stdout)
    assert told["out"] == "evaluation"
    rows = {(row["contestant"], row["subset"]): row for row in told["rows"]}
    assert set(rows["2stcn", "All"]["src"]) == {"value", "low", "high"}
    assert rows["constant", "All"]["src"]["value"] is None
    assert len(told["differences"]) == 5
    assert all(0 <= d["p"] <= d["p_holm"] <= 1 for d in told["differences"])


def test_evaluate_explains_attention_and_tells_frames(home: Path) -> None:
    args = ["evaluate", "--models", "2stcn", "--out", "explained", *QUICK, *TINY]
    done = called(home, *args, "--explain", "--per-frame", "frames", "--json")
    links = json.loads(done.stdout)["explain"]
    assert [link["measure"] for link in links] == ["|yaw|", "|roll|", "mouth opening", "smile"]
    assert all(set(link["within"]) == {"value", "low", "high"} for link in links)
    assert (home / "explained" / "explain.csv").is_file()
    assert len(list((home / "frames" / "2stcn" / "repeat0").rglob("*.csv"))) == 24
    again = called(home, *args, "--explain")
    assert "The slides' claim" in again.stdout


def test_ablate_killed_and_run_again_writes_the_same_table(home: Path) -> None:
    asked = ["--group", "person", *QUICK, *TINY]
    done = called(home, "ablate", "--out", "table3", *asked)
    assert "report: table3/report.md" in done.stdout
    text = (home / "table3" / "report.md").read_text()
    assert "## In the paper's layout" in text and "| 0.3848 | 0.2498 |" in text

    cut = home / "cut"
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ablate", "--out", "cut", *asked],
        cwd=home, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list(cut.glob("folds/*/*.json"))) < 5:
        assert running.poll() is None, "it was done before it could be killed"
        time.sleep(0.002)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    kept = {f: f.stat().st_mtime_ns for f in cut.glob("folds/*/*.json")}
    assert 5 <= len(kept) < len(list(home.glob("table3/folds/*/*.json")))
    assert not (cut / "report.md").exists()

    called(home, "ablate", "--out", "cut", *asked)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    for name in ("report.md", "tables.csv", "comparisons.csv", "predictions.csv"):
        assert (cut / name).read_bytes() == (home / "table3" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", "--models", "lstm"], "there is no model named 'lstm'"),
        (["ablate", "--set", "model.attention=true"], "what the rows of the ablation differ in"),
    ],
)
def test_mistakes_are_told_in_a_line(home: Path, args: list[str], message: str) -> None:
    done = called(home, *args, "--out", "nowhere", code=2)
    assert message in done.stderr
    assert not (home / "nowhere").exists()
