from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import store
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.labels import LabelError
from stages.fit.metrics import measure
from stages.fit.models import ModelError
from stages.fit.protocol import SplitError
from stages.fit.run import FitResult, RunError, fit, load_run, newest_run
from stages.fit.spans import clip_spans
from store.errors import StoreMismatchError
from store.schema import ClipRows
from tests.fit.fit_clips import make_store, record, write_labels

CONFIG = apply_overrides(
    FitConfig(),
    ["epochs=5", "batch_size=8", "model.channels=4", "split.test=0.3", "bootstrap=100", "seed=3"],
)
FILES = {
    "model.safetensors",
    "config.json",
    "provenance.json",
    "split.csv",
    "epochs.csv",
    "labels.csv",
    "metrics.json",
    "predictions.csv",
}
Made = tuple[Path, Path]


@pytest.fixture(scope="module")
def fitted(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FitResult, list[str], list[dict[str, float]]]:
    lines: list[str] = []
    rows: list[dict[str, float]] = []
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    return fit(*made, run_dir, CONFIG, lines.append, rows.append), lines, rows


def test_a_run_folder_holds_all_and_nothing_else(fitted, made: Made) -> None:  # type: ignore[no-untyped-def]
    result, lines, rows = fitted
    folder = result.run_dir
    assert {p.name for p in folder.iterdir()} == FILES
    assert [p.name for p in folder.parent.iterdir()] == ["first"]
    assert any(line.startswith("36 labelled clips: ") for line in lines)
    assert lines[-1].startswith("training again on train and val together")
    again = [row["of"] for row in rows if "of" in row]  # of the second training
    assert again == [result.best_epoch] * result.best_epoch
    assert rows[: -len(again)] == result.epochs
    assert len(pd.read_csv(folder / "epochs.csv")) == len(result.epochs)

    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["store"] == store.open(made[0]).provenance
    assert provenance["labels"]["sha256"] == hashlib.sha256(made[1].read_bytes()).hexdigest()
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["options"]["channels"] == 4
    assert config["model"]["options"]["max_frames"] <= 19
    assert FitConfig.model_validate(config["config"]) == CONFIG


def test_the_order_of_a_small_stores_rows_changes_nothing(
    fitted, made: Made, tmp_path: Path
) -> None:
    """Workers finish clips in another order every time; the model must be the same to the bit."""
    source = store.open(made[0])
    clips = [clip for clip in clip_spans(source) if not clip.startswith("none/")]
    rng = np.random.default_rng(1)
    with store.Writer(tmp_path / "s.store", source.provenance) as writer:
        for clip in rng.permutation(clips).tolist():
            rows = ClipRows(**source.clip(clip))
            writer.append(record(clip, rows), rows)
        writer.flush()
    other = fit(tmp_path / "s.store", made[1], tmp_path / "run", CONFIG)
    assert list(clip_spans(store.open(tmp_path / "s.store"))) != clips
    for name in ("model.safetensors", "predictions.csv"):
        assert (other.run_dir / name).read_bytes() == (fitted[0].run_dir / name).read_bytes()


def test_no_person_stands_in_two_parts(fitted) -> None:  # type: ignore[no-untyped-def]
    split = pd.read_csv(fitted[0].run_dir / "split.csv")
    assert len(split) == 36
    assert split.groupby("group")["part"].nunique().max() == 1
    assert split["group"].nunique() == 12


def test_metrics_are_those_of_the_predictions_file(fitted) -> None:  # type: ignore[no-untyped-def]
    result = fitted[0]
    table = pd.read_csv(result.run_dir / "predictions.csv")
    held = json.loads((result.run_dir / "metrics.json").read_text())
    for part, found in (("test", result.test), ("val", result.val)):
        rows = table[table["part"] == part]
        again = measure(rows["prediction"], rows["score"], samples=100)
        assert (again.n, again.src) == (found.n, pytest.approx(found.src))
        assert again.mae == pytest.approx(found.mae)
    assert held["test"] == result.test.to_dict()
    assert held["baselines"]["time_average_ridge"]["src"] == result.baseline.to_dict()["src"]
    ridge = table["time_average_ridge"]
    assert ridge[table["part"] == "test"].notna().all()
    assert ridge[table["part"] != "test"].isna().all()


def test_a_loaded_run_predicts_what_was_written(fitted, made: Made) -> None:  # type: ignore[no-untyped-def]
    folder = fitted[0].run_dir
    found = load_run(folder).predict(made[0])
    assert list(found.columns) == ["clip", "score", "frames", "valid_frames"]
    assert len(found) == 36
    table = pd.read_csv(folder / "predictions.csv").set_index("clip")
    written = table.loc[table["part"] != "val", "prediction"]
    found = found[found["clip"].isin(written.index)]
    np.testing.assert_allclose(found["score"], written[found["clip"]], rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_run(fitted, made: Made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    fit(*made, tmp_path / "again", CONFIG)
    for name in FILES - {"provenance.json"}:
        assert (tmp_path / "again" / name).read_bytes() == (
            fitted[0].run_dir / name
        ).read_bytes(), name


@pytest.mark.parametrize("budget", [0, 200_000])
def test_the_budget_does_not_change_the_run(  # type: ignore[no-untyped-def]
    fitted, made: Made, tmp_path: Path, budget: int
) -> None:
    fit(*made, tmp_path / "small", apply_overrides(CONFIG, [f"budget={budget}"]))
    for name in FILES - {"provenance.json", "config.json"}:
        assert (tmp_path / "small" / name).read_bytes() == (
            fitted[0].run_dir / name
        ).read_bytes(), name


def test_validation_is_predicted_by_the_network_that_had_not_seen_it(
    fitted,  # type: ignore[no-untyped-def]
    made: Made,
    tmp_path: Path,
) -> None:
    alone = fit(*made, tmp_path / "alone", apply_overrides(CONFIG, ["refit=false"]))
    assert alone.val == fitted[0].val and alone.best_epoch == fitted[0].best_epoch
    assert alone.baseline == fitted[0].baseline
    a, b = (
        pd.read_csv(r.run_dir / "predictions.csv").set_index("clip") for r in (alone, fitted[0])
    )
    same = a["prediction"] == b["prediction"]
    assert same[a["part"] == "val"].all() and not same[a["part"] == "test"].any()


def test_another_pack_is_refused(fitted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_store(tmp_path / "b.store", clips=2, pack="b")
    run = load_run(fitted[0].run_dir)
    with pytest.raises(StoreMismatchError, match="'pack-a'.*'pack-b'") as caught:
        run.predict(tmp_path / "b.store")
    assert "--pack pack-a" in caught.value.hint and caught.value.exit_code == 2
    make_store(tmp_path / "a.store", clips=2, pack="a", seed=9)
    assert len(run.predict(tmp_path / "a.store")) == 2


def test_a_store_without_faces_gives_an_empty_table(fitted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_store(tmp_path / "a.store", clips=0)
    assert load_run(fitted[0].run_dir).predict(tmp_path / "a.store").empty


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        load_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"has no config\.json"):
        load_run(tmp_path)
    with pytest.raises(RunError, match="there is no run in"):
        newest_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", lambda raw: raw[: len(raw) // 2], "not the weights"),
        ("model.safetensors", lambda raw: b"", "not the weights"),
        ("model.safetensors", None, "not the weights"),
        ("config.json", lambda raw: raw.replace(b'"channels": 4', b'"channels": 5'), "not the w"),
        ("config.json", lambda raw: raw.replace(b'"format": 1', b'"format": 2'), "found 2"),
        ("config.json", lambda raw: raw.replace(b'"label"', b'"lebal"'), "incomplete"),
        ("config.json", lambda raw: raw[:-9], "cannot be read"),
        ("config.json", lambda raw: b"[]", "an object expected"),
        ("metrics.json", None, "cannot be read"),
    ],
)
def test_damaged_runs_are_one_clear_error(fitted, tmp_path: Path, name, change, said) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(fitted[0].run_dir, tmp_path / "run")
    file = tmp_path / "run" / name
    if change is None:
        file.unlink()
    else:
        raw = file.read_bytes()
        file.write_bytes(change(raw))
        assert file.read_bytes() != raw
    with pytest.raises(RunError, match=said) as caught:
        load_run(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_newest_run_is_the_one_finished_last(fitted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("b", "a"):
        shutil.copytree(fitted[0].run_dir, tmp_path / name, copy_function=shutil.copyfile)
    (tmp_path / ".c.partial-1").mkdir()
    shutil.copyfile(tmp_path / "a" / "config.json", tmp_path / ".c.partial-1" / "config.json")
    assert newest_run(tmp_path) == tmp_path / "a"


def test_an_existing_folder_is_kept_unless_told_otherwise(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is not a run and is left alone"):
            fit(*made, target, CONFIG, overwrite=overwrite)
    assert (target / "mine.txt").read_text() == "mine"
    quick = apply_overrides(CONFIG, ["epochs=1"])
    fit(*made, tmp_path / "other", quick)
    with pytest.raises(RunError, match="exists already"):
        fit(*made, tmp_path / "other", quick)
    fit(*made, tmp_path / "other", apply_overrides(quick, ["seed=5"]), overwrite=True)
    assert load_run(tmp_path / "other").config.seed == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "run"]


def test_a_fit_that_fails_leaves_nothing_behind(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stages.fit.models.base.total_loss", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(*made, tmp_path / "run", CONFIG)
    labels = [("p00/clip000", 1.0, "a"), ("p01/clip001", 2.0, "b")]
    with pytest.raises(SplitError, match="2 labelled clips of 2"):
        fit(made[0], write_labels(tmp_path / "few.csv", labels), tmp_path / "run", CONFIG)
    with pytest.raises(LabelError):
        fit(made[0], tmp_path / "none.csv", tmp_path / "run", CONFIG)
    bad = CONFIG.model_copy(update={"model_options": {"gate": "relu"}})
    with pytest.raises(ModelError):
        fit(*made, tmp_path / "run", bad)
    assert [p.name for p in tmp_path.iterdir()] == ["few.csv"]


def test_a_full_disk_is_one_clear_error(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "run"
    quick = apply_overrides(CONFIG, ["epochs=1"])
    with monkeypatch.context() as patch:
        patch.setattr("stages.fit.run_files.save_file", full)
        with pytest.raises(RunError, match="run: cannot be written .No space left") as caught:
            fit(*made, target, quick)
    assert caught.value.exit_code == 1
    with pytest.raises(RunError, match="holds a fit that is not finished"):
        load_run(target)
    with monkeypatch.context() as patch:
        patch.setattr("stages.fit.unfinished.write_file", full)
        with pytest.raises(RunError, match="cannot be written .No space left"):
            fit(*made, tmp_path / "other", quick)
    fit(*made, target, quick)
    assert {p.name for p in target.iterdir()} == FILES
    assert not (tmp_path / "other").exists()


def test_relative_targets_are_fitted_on_the_train_part_and_raw_scores_are_kept(
    made: Made, tmp_path: Path
) -> None:
    lines = made[1].read_text().splitlines()
    labels = tmp_path / "labels.csv"
    rows = []
    for k, line in enumerate(lines[1:]):
        clip, score, person = line.split(",")
        channel = "=ab"[1 + k % 2]
        rows.append(f"{clip},{float(score) * (1, 100)[k % 2]},{person},{channel}")
    labels.write_text("\n".join([lines[0] + ",subset", *rows]) + "\n")
    config = apply_overrides(CONFIG, ["epochs=1", "normalise=zscore"])
    result = fit(made[0], labels, tmp_path / "run", config)

    table = pd.read_csv(result.run_dir / "predictions.csv").set_index("clip")
    given = pd.read_csv(labels).set_index("clip")["score"]
    pd.testing.assert_series_equal(table["score"].sort_index(), given.sort_index())
    for _, channel in table.groupby("subset"):
        train = channel[channel["part"] == "train"]["score"]
        expected = (channel["score"] - train.mean()) / train.std(ddof=0)
        np.testing.assert_allclose(channel["target"], expected)

    told = json.loads((result.run_dir / "metrics.json").read_text())
    test = table[table["part"] == "test"]
    assert told["test"]["src"] == pytest.approx(
        measure(test["prediction"], test["target"], samples=100).src
    )
    raw = told["raw_score"]["test"]
    assert raw["src"] == pytest.approx(measure(test["prediction"], test["score"], samples=100).src)
    assert "mae" not in raw and raw["src"] != told["test"]["src"]
    assert "raw_score" not in json.loads(
        (fit(made[0], made[1], tmp_path / "plain", CONFIG).run_dir / "metrics.json").read_text()
    )


def test_no_normalisation_is_a_word_too() -> None:
    assert apply_overrides(CONFIG, ["normalise=none"]) == CONFIG
