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
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.run import fit
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
    assert scoring.scored(found.table) == 1
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
    (line,) = scoring.without_score(found.table)
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
    assert scoring.scored(found.table) == 1
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
    assert scoring.scored(found.table) == 1
    assert store.open(tmp_path / "g.store").crop_size == 64
