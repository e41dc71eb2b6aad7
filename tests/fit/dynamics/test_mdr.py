from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import store
from stages.fit import models
from stages.fit.config import ConfigError, FitConfig, apply_overrides, read_settings
from stages.fit.contestants import choose_contestants
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.generator import Generator, Projection
from stages.fit.dynamics.ranking import accuracy, clustered, rank_svm
from stages.fit.dynamics.run import MdrResult, fit_mdr
from stages.fit.persons import PersonsError
from stages.fit.run import RunError, fit, load_run
from stages.fit.run_folder import make_loader
from stages.fit.spans import clip_spans
from store.companion import CompanionError, open_companion
from store.errors import StoreMismatchError
from store.schema import ClipRows
from tests.fit.fit_clips import PROVENANCE, face, make_store, record, write_labels
from tests.fit.study_clips import like_lite

SMALL = {"windows": (2, 4), "components": 8, "hidden": 16, "epochs": 2, "folds": 3, "bound": 2}


def slow_faces(path: Path, persons: int = 6, frames: int = 40, seed: int = 0) -> Path:
    """A store of faces whose landmarks move slowly, so that near frames are alike."""
    rng = np.random.default_rng(seed)
    who = like_lite(rng, np.arange(persons))
    ways = rng.normal(size=(2, 136))  # two, out of step: one alone is the same coming and going
    with store.Writer(path, PROVENANCE) as writer:
        for k in range(persons):
            time = np.arange(frames) / 25
            angle = 2 * np.pi * 0.8 * time + rng.uniform(0, 6)
            waves = np.stack([np.sin(angle), np.cos(angle)], axis=1)  # (n, 2)
            points = face(rng).reshape(136) + 3 * waves @ ways
            points = points + rng.normal(size=points.shape) * 0.1
            features = who[k] + rng.normal(size=(frames, 512)) * 0.01
            valid = np.ones(frames, bool)
            valid[7] = False
            box, score = np.tile([100.0, 50.0, 300.0, 250.0], (frames, 1)), np.full(frames, 0.9)
            for array in (points, features, box, score):
                array[~valid] = np.nan
            rows = ClipRows(
                features.astype("f2"), features.astype("f2"), points.astype("f4"), time,
                box.astype("f4"), score.astype("f4"), valid,
            )  # fmt: skip
            writer.append(record(f"clip{k}.mp4", rows), rows)
        writer.flush()
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MdrResult]:
    folder = tmp_path_factory.mktemp("mdr")
    path = slow_faces(folder / "slow.store")
    return path, fit_mdr(path, folder / "run", MdrConfig(**SMALL, bootstrap=200))


def test_order_is_found_on_persons_not_seen(fitted: tuple[Path, MdrResult]) -> None:
    path, result = fitted
    assert (result.clips, result.persons) == (6, 6)
    assert [scale.window for scale in result.scales] == [2, 4]
    for scale in result.scales:
        assert scale.mdr.low > 0.5
        assert scale.rank_svm.value >= scale.mdr.value
    assert result.features == path.with_suffix(".mdr")
    told = json.loads((result.run_dir / "mdr.json").read_text())
    with (result.run_dir / "ranking.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 6 * 2
    mean = np.mean([float(row["mdr"]) for row in rows if row["window"] == "4"])
    assert told["scales"][1]["mdr"]["value"] == pytest.approx(mean, abs=1e-5)


def test_no_order_is_chance(tmp_path: Path) -> None:
    """Frames that have nothing to do with their neighbours: the interval holds one half."""
    labels = make_store(tmp_path / "still.store", clips=12, persons=12)
    path = tmp_path / "noise.store"
    rng = np.random.default_rng(1)
    with store.Writer(path, PROVENANCE) as writer, store.open(tmp_path / "still.store") as opened:
        for clip, _, _ in labels:
            arrays = opened.clip(clip)
            points = arrays["landmark"].astype("f8")
            points = np.nanmean(points, axis=0) + rng.normal(size=points.shape)
            valid = arrays["valid"].astype(bool)
            points[~valid] = np.nan
            rows = ClipRows(**{**arrays, "landmark": points.astype("f4")})  # type: ignore[arg-type]
            writer.append(record(clip, rows), rows)
        writer.flush()
    result = fit_mdr(path, tmp_path / "run", MdrConfig(**SMALL, group="clip", bootstrap=300))
    for scale in result.scales:
        assert scale.mdr.low < 0.5 < scale.mdr.high


def test_features_are_the_generators_row_for_row(fitted: tuple[Path, MdrResult]) -> None:
    path, result = fitted
    assert result.features is not None
    beside = open_companion(result.features)
    opened = store.open(path)
    values = beside.read(0, opened.n_rows)
    assert values.shape == (opened.n_rows, 2 * 8) and values.dtype == np.float16
    valid = np.asarray(opened.dask("valid"))
    assert np.isnan(values[~valid]).all() and np.isfinite(values[valid]).all()
    # The folder alone makes the same again, for this store or another.
    from stages.fit.dynamics.features import make_again

    again = make_again(result.features, opened, result.run_dir / "again")
    np.testing.assert_array_equal(again.read(0, opened.n_rows), values)


def test_mistakes_are_told(fitted: tuple[Path, MdrResult], tmp_path: Path) -> None:
    path, _ = fitted
    with pytest.raises(ConfigError, match="did you mean 'windows'"):
        read_settings(MdrConfig, ["window=3"])
    for bad in ("windows=1", "windows=4,4", "theta=0", "windows="):
        with pytest.raises(ConfigError):
            read_settings(MdrConfig, [bad])
    assert read_settings(MdrConfig, ["windows=8"]).windows == (8,)
    assert read_settings(MdrConfig, ["windows=2,8"]).windows == (2, 8)
    with pytest.raises(PersonsError, match="lies in no folder"):
        fit_mdr(path, tmp_path / "run", MdrConfig(**SMALL, group="folder"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    with pytest.raises(CompanionError, match="is there already"):
        fit_mdr(path, tmp_path / "run", MdrConfig(**SMALL, out=tmp_path / "mine"))


def test_generator_starts_as_the_still_itself() -> None:
    torch.manual_seed(0)
    generator = Generator(6, (2, 4), 3, 5, 0.5)
    x = torch.randn(50, 6, dtype=torch.float64) * torch.tensor([5.0, 1, 1, 1, 1, 0.1]).double()
    apart = x - x.mean(dim=0)
    covariance = apart.T @ apart / 50
    within = covariance.diagonal().sqrt()
    generator.set_statistics(x.mean(0).float(), within.float(), within.float(), covariance.float())
    generator.eval()
    still = generator.psi(x.float())
    assert torch.equal(generator(x.float()), still[:, None].expand(-1, 2, -1))
    assert still.square().sum(dim=1).mean().item() == pytest.approx(1, abs=1e-4)
    off = still.T @ still / 50
    assert (off - off.diagonal().diag()).abs().max() < 1e-5  # principal components


def test_projection_finds_what_moves() -> None:
    psi = Projection(3, 1)
    moves = torch.tensor([[1.0, 1.0, 0.0]])
    covariance = moves.T @ moves + 1e-4 * torch.eye(3)
    psi.set(torch.zeros(3), torch.ones(3), covariance)
    assert psi(torch.tensor([[0.0, 0, 5]])).abs().item() < 1e-3
    assert psi(moves).item() == pytest.approx(1, abs=1e-2)


def test_rank_svm_is_a_bound_and_knows_the_span() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.normal(size=(30, 200)))  # more dimensions than frames: separable
    places, seen = torch.arange(8, 22, 3), torch.ones(30, dtype=torch.bool)
    assert rank_svm(places, frames, seen, 4) == 1.0
    assert accuracy(frames[places], places, frames, seen, 4) < 0.75
    line = torch.arange(30.0, dtype=torch.float64)[:, None]  # both sides cannot be ranked in 1-d
    assert rank_svm(places, line, seen, 4) == 0.5


def test_clustered_interval_draws_persons() -> None:
    values = np.array([0.6, 0.6, 0.6, 0.8, np.nan])
    found = clustered(values, ["a", "a", "a", "b", "c"], 500, 0)
    assert found.value == pytest.approx(0.65)
    alone = clustered(values, list("abcde"), 500, 0)
    assert found.high - found.low > alone.high - alone.low
    assert clustered(np.array([1.0, 1.0, 0.9]), list("abc"), 500, 0).high == 1.0  # a share


# -- as a third stream -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A labelled store, its labels, and MDR beside it."""
    folder = tmp_path_factory.mktemp("third")
    labels = make_store(folder / "features.store", clips=30, persons=10)
    table = write_labels(folder / "labels.csv", labels)
    result = fit_mdr(folder / "features.store", folder / "mdr", MdrConfig(**SMALL), table)
    assert result.features is not None
    return folder / "features.store", table, result.features


TAKERS = sorted(name for name in models.names() if "extra_dim" in models.options(name))


def test_models_that_read_two_streams_take_a_third() -> None:
    assert {"2stcn", "2stcn-plus", "tcn", "gru", "transformer", "gdlt", "siamese"} <= set(TAKERS)
    for name in set(models.names()) - set(TAKERS):
        with pytest.raises(models.ModelError, match="no further features"):
            apply_overrides(FitConfig(model=name), ["features=x.mdr"])
    with pytest.raises(ConfigError):  # the data settles how wide it is
        apply_overrides(FitConfig(), ["model.extra_dim=3"])
    with pytest.raises(ConfigError, match="would not read"):
        choose_contestants(["meanpool"], ["features=x", "model.streams=landmarks"], [])


@pytest.mark.parametrize("name", TAKERS)
def test_third_stream_reaches_the_score(streams: tuple[Path, Path, Path], name: str) -> None:
    path, _, features = streams
    source = store.open(path)
    config = apply_overrides(FitConfig(model=name), [f"features={features}"])
    loader = make_loader(source, list(clip_spans(source).values())[:6], {}, config)
    batch = next(iter(loader.batches(6)))
    assert batch.appearance.shape[2] == 512 + 16
    given = models.complete(name, {}, loader.longest(), loader.extra_width)
    torch.manual_seed(0)
    model = models.create(name, **given)
    model.set_statistics(loader.statistics())
    model.eval()
    wide = batch.appearance.clone().requires_grad_()
    out = model(wide, batch.landmark, batch.mask, batch.timestamp)
    out.frame_score.sum().backward()
    assert wide.grad is not None
    if name != "2stcn-plus":  # whose first scores are small, not 0
        assert wide.grad[..., 512:].abs().sum() > 0
    other = batch.appearance.clone()
    other[..., 512:] *= -1
    changed = model.predict(other, batch.landmark, batch.mask, batch.timestamp)
    assert not torch.equal(changed.frame_score, out.frame_score)


@pytest.mark.parametrize("fusion", ["feature", "decision", "score"])
@pytest.mark.parametrize("read", ["both", "landmarks"])
def test_2stcn_fuses_three_streams(fusion: str, read: str) -> None:
    model = models.create("2stcn", modality_fusion=fusion, streams=read, extra_dim=5, levels=1)
    mask = torch.tensor([[True, True, False]])
    wide = torch.randn(1, 3, 517)
    out = model.predict(wide, torch.randn(1, 3, 136), mask)
    assert out.score.shape == (1,) and out.frame_score[0, 2] == 0


def test_fit_and_score_make_the_stream_for_new_clips(
    streams: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    path, labels, features = streams
    config = apply_overrides(FitConfig(model="gru"), ["epochs=2", f"features={features}"])
    fit(path, labels, tmp_path / "run", config)
    run = load_run(tmp_path / "run")
    table = run.predict(path)
    assert np.isfinite(table["score"]).all() and len(table) == 30
    then = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("clip")
    then = then[then["part"] == "test"]["prediction"]
    now = table.set_index("clip")["score"][then.index]
    np.testing.assert_allclose(now, then, atol=1e-4)
    # Another store of that pack: the run makes the features itself.
    make_store(tmp_path / "new.store", clips=3, persons=3, seed=5)
    assert np.isfinite(run.predict(tmp_path / "new.store")["score"]).all()
    with pytest.raises(StoreMismatchError, match="those of another store"):
        new = store.open(tmp_path / "new.store")
        make_loader(new, list(clip_spans(new).values()), {}, config)


def test_deep_reads_the_third_stream_as_a_block_of_its_own(
    streams: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    path, labels, features = streams
    given = [f"features={features}", "model.regressor=ridge", "bootstrap=100"]
    fit(path, labels, tmp_path / "run", apply_overrides(FitConfig(model="deep"), given))
    run = load_run(tmp_path / "run")
    _, arrays = run.model.saved()
    sizes = [len(arrays[f"scale{k}.mean"]) for k in range(4)]
    assert sizes == [512, 512, 16, 136]  # appearance, embedding, MDR, landmarks
    make_store(tmp_path / "new.store", clips=3, persons=3, seed=5)
    assert np.isfinite(run.predict(tmp_path / "new.store")["score"]).all()
    with pytest.raises(RunError, match="which rows of extraction do not hold"):
        run.check_rows()
