from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from stages.fit.checkpoint import Checkpoint, CheckpointError, Snapshot
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.run import RunError, fit
from tests.fit import fit_victim
from tests.fit.fit_clips import make_store, write_labels

SMALL = ["batch_size=8", "split.test=0.3", "bootstrap=100", "seed=3"]
CONFIG = apply_overrides(FitConfig(), ["epochs=5", "model.channels=4", *SMALL])
SAME = ("model.safetensors", "config.json", "split.csv", "epochs.csv", "metrics.json")
Made = tuple[Path, Path]


@pytest.fixture(scope="module")
def whole(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(*made, tmp_path_factory.mktemp("whole") / "run", CONFIG).run_dir


def same_run(a: Path, b: Path) -> None:
    assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()}
    for name in (*SAME, "predictions.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def stop_after(epochs: int) -> Callable[[dict[str, float]], None]:
    def epoch(row: dict[str, float]) -> None:
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    return epoch


def interrupted(made: Made, run: Path, epochs: int = 2, config: FitConfig = CONFIG) -> Path:
    with pytest.raises(KeyboardInterrupt):
        fit(*made, run, config, progress=stop_after(epochs))
    return run


@pytest.mark.parametrize(("phase", "epochs"), [("train", 3), ("refit", 1)])
def test_killed_and_started_again_it_ends_bit_for_bit_the_same(
    made: Made, whole: Path, tmp_path: Path, phase: str, epochs: int
) -> None:
    run = tmp_path / "run"
    arguments = [*map(str, made), str(run), phase, str(epochs), CONFIG.model_dump_json()]
    victim = subprocess.run(
        [sys.executable, "-m", fit_victim.__name__, *arguments],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr.decode()
    assert not (run / "config.json").exists()
    lines: list[str] = []
    rows: list[dict[str, float]] = []
    result = fit(*made, run, CONFIG, lines.append, rows.append)
    assert f"going on with the unfinished fit in {run}" in lines
    again = [row for row in rows if "of" in row]
    assert [*result.epochs, *again] == rows
    best = result.best_epoch
    assert [(row["epoch"], row["of"]) for row in again] == [(k + 1, best) for k in range(best)]
    same_run(run, whole)


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "identity.json.0f.partial"]])
def test_killed_before_the_first_epoch_it_begins_anew(
    made: Made, whole: Path, tmp_path: Path, left: list[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    for name in left:
        (run / "checkpoint" / name).touch()
    fit(*made, run, CONFIG)
    same_run(run, whole)


def test_a_folder_of_that_name_which_is_not_ours_is_left_alone(made: Made, tmp_path: Path) -> None:
    mine = tmp_path / "run" / "checkpoint" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(RunError, match="is not a run and is left alone"):
        fit(*made, tmp_path / "run", CONFIG)
    assert mine.exists()


def test_epochs_that_were_done_are_not_done_again(
    made: Made, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(made, tmp_path / "run", 1)
    interrupted(made, run, 4)
    trained: list[tuple[str, int]] = []
    save = Checkpoint.save

    def noting(self: Checkpoint, snapshot: Snapshot) -> None:
        trained.append((self.path.stem, snapshot.facts["epoch"]))
        save(self, snapshot)

    monkeypatch.setattr(Checkpoint, "save", noting)
    result = fit(*made, run, CONFIG)
    assert trained == [("train", 5), *(("refit", k + 1) for k in range(result.best_epoch))]
    same_run(run, whole)


def test_patience_that_ran_out_before_the_kill_is_not_forgotten(made: Made, tmp_path: Path) -> None:
    config = apply_overrides(CONFIG, ["epochs=30", "patience=2", "lr=0.3", "ema=0"])
    whole = fit(*made, tmp_path / "whole", config)
    last = len(whole.epochs)
    assert last == whole.best_epoch + 2 < 30
    run = interrupted(made, tmp_path / "run", last, config)
    assert fit(*made, run, config).epochs == whole.epochs
    same_run(run, whole.run_dir)


def test_running_statistics_of_batch_normalisation_go_on_too(made: Made, tmp_path: Path) -> None:
    config = apply_overrides(FitConfig(model="hmtnet"), ["epochs=3", "model.hidden=8", *SMALL])
    whole = fit(*made, tmp_path / "whole", config)
    run = interrupted(made, tmp_path / "run", 2, config)
    assert fit(*made, run, config).epochs == whole.epochs
    same_run(run, whole.run_dir)


def test_another_fit_in_that_folder_is_refused(made: Made, tmp_path: Path) -> None:
    run = interrupted(made, tmp_path / "run")
    held = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=r"train\.lr is 0\.002 there, 0\.001 now") as caught:
        fit(*made, run, apply_overrides(CONFIG, ["lr=0.001"]))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    lines = made[1].read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(RunError, match="unfinished fit of other labels"):
        fit(made[0], tmp_path / "fewer.csv", run, CONFIG)
    labels = make_store(tmp_path / "other.store", seed=1)
    same = write_labels(tmp_path / "same.csv", labels)
    same.write_bytes(made[1].read_bytes())
    with pytest.raises(RunError, match="unfinished fit of another store"):
        fit(tmp_path / "other.store", same, run, CONFIG)
    with (
        FileLock(run / "checkpoint" / "lock"),
        pytest.raises(RunError, match="another process is fitting"),
    ):
        fit(*made, run, CONFIG)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == held


def test_the_budget_may_change(made: Made, whole: Path, tmp_path: Path) -> None:
    run = interrupted(made, tmp_path / "run")
    fit(*made, run, apply_overrides(CONFIG, ["budget=0"]))
    assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_overwriting_begins_anew_with_other_settings(made: Made, tmp_path: Path) -> None:
    run = interrupted(made, tmp_path / "run")
    (run / "mine.txt").write_text("mine")
    other = apply_overrides(CONFIG, ["epochs=1"])
    assert len(fit(*made, run, other, overwrite=True).epochs) == 1
    assert (run / "mine.txt").read_text() == "mine"


def test_features_that_changed_under_the_fit_are_refused(made: Made, tmp_path: Path) -> None:
    run = interrupted(made, tmp_path / "run")
    checkpoint = Checkpoint(run / "checkpoint" / "train.safetensors")
    saved = checkpoint.load()
    assert saved is not None
    saved.tensors["model.standardise_landmark.mean"][3] += 1
    checkpoint.save(saved)
    with pytest.raises(CheckpointError, match="other features") as caught:
        fit(*made, run, CONFIG)
    assert caught.value.exit_code == 2 and checkpoint.path.exists()


@pytest.mark.parametrize("name", ["train.safetensors", "identity.json"])
def test_a_damaged_checkpoint_is_one_clear_error(made: Made, tmp_path: Path, name: str) -> None:
    run = interrupted(made, tmp_path / "run", 1)
    file = run / "checkpoint" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises((CheckpointError, RunError), match="damaged|cannot be read") as caught:
        fit(*made, run, CONFIG)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_checkpoint_gives_back_what_it_got(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.load() is None
    tensors = {"a.x": torch.rand(3, 2).T, "a.y": torch.tensor(float("nan")), "b": torch.arange(3)}
    checkpoint.save(Snapshot(tensors, {"rows": [{"loss": 0.1 + 0.2, "src": float("nan")}]}))
    found = checkpoint.load()
    assert found is not None and found.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(found.tensors[name], value, rtol=0, atol=0, equal_nan=True)
    assert found.part("a").keys() == {"x", "y"}
    assert json.dumps(found.facts) == '{"rows": [{"loss": 0.30000000000000004, "src": NaN}]}'
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
