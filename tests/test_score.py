from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import store
from stages import score as scoring
from stages.extract.device import Device
from stages.extract.errors import PackError
from stages.extract.layer_run import add_layer
from stages.extract.layers import LayerOptions, Pool
from stages.extract.run import ExtractOptions, extract
from stages.fit.action_units import fit_au
from stages.fit.au_inputs import AuConfig
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.features import load_generator
from stages.fit.dynamics.run import fit_mdr
from stages.fit.frame_run import load_scorer
from stages.fit.models import ModelError
from stages.fit.run import RunError, fit, load_run
from store.companion import CompanionError
from tests.testing.clips import moving_square
from tests.testing.runs import QUICK, labelled_videos


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> tuple[Path, ExtractOptions]:
    home = tmp_path_factory.mktemp("run")
    videos = labelled_videos(home / "videos")
    options = ExtractOptions([videos], home / "f.store", str(small_pack), Device.CPU, 2)
    extract(options)
    config = apply_overrides(FitConfig(), QUICK)
    fit(home / "f.store", videos / "labels.csv", home / "run", config)
    return home / "run", options


def test_scores_without_keeping_features(run: tuple[Path, ExtractOptions], tmp_path: Path) -> None:
    folder, options = run
    moving_square(tmp_path / "new.mp4", frames=7)
    given = replace(options, videos=[tmp_path], store=tmp_path / "unused.store")
    found = scoring.score(
        given,
        folder,
        tmp_path / "scores.csv",
        keep_store=False,
        pack=options.pack,
        per_frame=tmp_path / "frames",
    )
    assert scoring.scored(found) == 1
    told = pd.read_csv(tmp_path / "frames" / "new.mp4.csv")
    assert told["frame"].tolist() == list(range(7)) and told["valid"].all()
    assert told["won"].sum() == 1
    assert told["score"].max() == pytest.approx(found.table["score"].item(), abs=1e-4)
    assert not (tmp_path / "unused.store").exists()
    assert (tmp_path / "scores.csv").read_text().startswith("clip,score,status,frames")


def test_files_under_ids_of_others_are_not_scored_with_their_rows(
    run: tuple[Path, ExtractOptions], tmp_path: Path
) -> None:
    folder, options = run
    moving_square(tmp_path / "00.mp4", frames=7)  # an id that the store holds
    given = replace(options, videos=[tmp_path])
    with pytest.raises(scoring.ScoreError, match=r"00\.mp4"):
        scoring.score(given, folder, tmp_path / "scores.csv", keep_store=True, pack=options.pack)
    assert not (tmp_path / "scores.csv").exists()


def test_a_pack_that_is_no_longer_the_runs_is_refused(
    run: tuple[Path, ExtractOptions], tmp_path: Path
) -> None:
    import shutil

    folder, options = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    told = json.loads((copy / "provenance.json").read_text())
    told["store"]["pack"]["fingerprint"] = "0" * 64
    (copy / "provenance.json").write_text(json.dumps(told))
    with pytest.raises(PackError, match="is not the one that made the features"):
        scoring.score(options, copy, tmp_path / "scores.csv", keep_store=False, pack=options.pack)


def test_rows_without_a_score_say_why(run: tuple[Path, ExtractOptions], tmp_path: Path) -> None:
    folder, options = run
    (tmp_path / "a.mp4").write_text("text")
    given = replace(options, videos=[tmp_path])
    found = scoring.score(
        given, folder, tmp_path / "scores.csv", keep_store=False, pack=options.pack
    )
    (line,) = scoring.without_score(found)
    assert line.startswith("a.mp4: unreadable: no video stream could be opened")


def test_a_layer_from_crops_is_computed_from_crops(
    run: tuple[Path, ExtractOptions], tmp_path: Path
) -> None:
    _, given = run
    options = replace(given, store=tmp_path / "c.store", crops=2, crop_size=64, workers=1)
    extract(options)
    layer = LayerOptions("map", Pool.MEAN, crops=True)
    add_layer(options.store, [], layer, pack=given.pack, device=Device.CPU, workers=1)
    labels = given.videos[0] / "labels.csv"
    config = ["model=meanpool", "stream=map.mean.crops", "bootstrap=100"]
    fit(options.store, labels, tmp_path / "run", apply_overrides(FitConfig(), config))
    moving_square(tmp_path / "new.mp4", frames=7)
    new = replace(given, videos=[tmp_path / "new.mp4"], store=tmp_path / "new.store", workers=1)
    found = scoring.score(new, tmp_path / "run", tmp_path / "s.csv", True, given.pack)
    assert scoring.scored(found) == 1
    rows = store.open(tmp_path / "new.store").dask("map.mean.crops").compute()
    assert np.isfinite(rows[:, 0]).sum() == 2


def test_a_run_that_reads_crops_gets_them_of_new_clips(small_pack: Path, tmp_path: Path) -> None:
    videos = labelled_videos(tmp_path / "videos", frames=3)
    options = ExtractOptions(
        [videos], tmp_path / "f.store", str(small_pack), Device.CPU, 1, crops=2, crop_size=64
    )
    extract(options)
    asked = ["epochs=1", "bootstrap=100", "train.refit=false", "model.size=64", "model.margin=0"]
    config = apply_overrides(FitConfig(model="resnet18"), asked)
    fit(tmp_path / "f.store", videos / "labels.csv", tmp_path / "run", config)
    (tmp_path / "new").mkdir()
    moving_square(tmp_path / "new" / "new.mp4", frames=5)
    given = ExtractOptions([tmp_path / "new"], tmp_path / "g.store", device=Device.CPU, workers=1)
    found = scoring.score(
        given, tmp_path / "run", tmp_path / "scores.csv", keep_store=True, pack=options.pack
    )
    assert scoring.scored(found) == 1
    assert store.open(tmp_path / "g.store").crop_size == 64


@pytest.fixture(scope="module")
def frame_runs(
    run: tuple[Path, ExtractOptions], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run of mdr and one of au on the same store."""
    _, options = run
    home = tmp_path_factory.mktemp("frames")
    mdr = MdrConfig(windows=(2, 4), components=4, hidden=8, epochs=1, folds=2, group="clip",
                    bound=1, out=home / "f.mdr")  # fmt: skip
    fit_mdr(options.store, home / "mdr", mdr)
    with store.open(options.store) as opened:
        for record in opened.records():
            rows = opened.clip(record.clip)
            left = np.nan_to_num(rows["landmark"][:, 0], nan=0.0)  # x of the first point
            lines = [f"{k + 1},{v:.4f}" for k, v in enumerate(left / 100)]
            path = home / "tracks" / f"{record.clip}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(["frame,AU12_r", *lines]) + "\n")
    au = AuConfig(group="clip", folds=2, bootstrap=100, landmarks="none", read="landmarks",
                  relative=False)  # fmt: skip
    fit_au(options.store, home / "tracks", home / "au", au)
    return home / "mdr", home / "au"


def test_mdr_tells_how_well_it_ranks_new_clips(
    run: tuple[Path, ExtractOptions], frame_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, options = run
    (tmp_path / "v").mkdir()
    moving_square(tmp_path / "v" / "new.mp4", frames=12)
    (tmp_path / "v" / "none.mp4").write_text("text")
    given = replace(options, videos=[tmp_path / "v"], store=tmp_path / "unused.store")
    found = scoring.score(given, frame_runs[0], tmp_path / "s.csv", False, options.pack)
    table = pd.read_csv(tmp_path / "s.csv").set_index("clip")
    assert table.columns[:3].tolist() == ["T2", "T4", "status"]
    assert table.loc["new.mp4", ["T2", "T4"]].between(0, 1).all()
    assert scoring.scored(found) == 1
    assert [line.split(":")[0] for line in scoring.without_score(found)] == ["none.mp4"]
    with pytest.raises(ModelError, match="nothing of single frames"):
        scoring.score(given, frame_runs[0], tmp_path / "s.csv", False, options.pack, tmp_path / "f")
    with pytest.raises(RunError, match="learns of frames"):
        load_run(frame_runs[0])


def test_au_tells_the_tracks_of_new_clips(
    run: tuple[Path, ExtractOptions], frame_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, options = run
    videos = labelled_videos(tmp_path / "v", clips=1, frames=12)
    (videos / "00.mp4").rename(videos / "new.mp4")
    given = replace(options, videos=[videos], store=tmp_path / "kept.store")
    scoring.score(
        given, frame_runs[1], tmp_path / "s.csv", True, options.pack, per_frame=tmp_path / "f"
    )
    (row,) = pd.read_csv(tmp_path / "s.csv").to_dict("records")
    frames = pd.read_csv(tmp_path / "f" / "new.mp4.csv")
    assert frames.columns.tolist() == ["frame", "timestamp_s", "valid", "AU12_r"]
    assert row["AU12_r"] == pytest.approx(frames["AU12_r"].mean(), rel=1e-4)
    truth = store.open(tmp_path / "kept.store").clip("new.mp4")["landmark"][:, 0] / 100
    told = json.loads((frame_runs[1] / "au.json").read_text())
    assert told["tracks"]["AU12_r"]["icc"] > 0.9  # so that new clips can be held to it
    assert np.ptp(truth) > 0.05
    np.testing.assert_allclose(frames["AU12_r"], truth, atol=0.02)


def test_a_model_of_several_tasks_tells_them_all(
    run: tuple[Path, ExtractOptions], tmp_path: Path
) -> None:
    _, options = run
    table = pd.read_csv(options.videos[0] / "labels.csv", dtype={"clip": str})
    table["size"] = np.where(table["score"] > table["score"].median(), "large", "small")
    table.to_csv(tmp_path / "labels.csv", index=False)
    asked = ["epochs=1", "bootstrap=100", "train.refit=false"]
    config = apply_overrides(FitConfig(model="hmtnet"), asked)
    fit(options.store, tmp_path / "labels.csv", tmp_path / "run", config)
    (tmp_path / "new").mkdir()
    moving_square(tmp_path / "new" / "new.mp4", frames=5)
    (tmp_path / "new" / "none.mp4").write_text("text")
    given = replace(options, videos=[tmp_path / "new"], store=tmp_path / "unused.store")
    scoring.score(given, tmp_path / "run", tmp_path / "s.csv", False, options.pack)
    told = pd.read_csv(tmp_path / "s.csv").set_index("clip")
    assert told.columns[:3].tolist() == ["score", "size", "status"]
    assert told.loc["new.mp4", "size"] in ("large", "small")
    assert told.loc["none.mp4", ["score", "size"]].isna().all()


def test_a_damaged_run_of_frames_is_told(frame_runs: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    for damaged in ("heads.safetensors", "au.json"):
        copy = tmp_path / damaged
        shutil.copytree(frame_runs[1], copy)
        (copy / damaged).write_text("{}")
        with pytest.raises(RunError, match=r"heads\.safetensors: cannot|cannot be applied"):
            load_scorer(copy)
    shutil.copytree(frame_runs[0], tmp_path / "mdr")
    (tmp_path / "mdr" / "features" / "about.json").unlink()
    with pytest.raises(CompanionError, match=r"about\.json: cannot be read"):
        load_generator(tmp_path / "mdr" / "features")
