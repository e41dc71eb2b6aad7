from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import store
from stages.extract.device import Device
from stages.extract.run import ExtractOptions, extract
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.run import fit
from tests.testing.clips import moving_square
from tests.testing.command import called
from tests.testing.packs import tiny_pack
from tests.testing.runs import labelled_videos


def test_a_layer_is_listed_added_fitted_on_and_scored_with(tmp_path: Path) -> None:
    videos = labelled_videos(tmp_path / "videos", clips=14, frames=3)
    folder = str(tiny_pack(tmp_path / "pack"))
    extract(ExtractOptions([videos], tmp_path / "features.store", folder, Device.CPU, 1))
    pack = ("--pack", "pack", "--workers", "1")
    listed = json.loads(called(tmp_path, "features", "--list", "--pack", "pack", "--json").stdout)
    assert {"name": "map", "kind": "BatchNormalization", "shape": [512, 2, 2]} in listed["tensors"]

    add = ("features", "videos/", "--layer", "map", "--pool", "meansd", *pack, "--json")
    told = json.loads(called(tmp_path, *add).stdout)
    assert (told["name"], told["width"], told["rows"], told["new"]) == ("map.meansd", 1024, 42, 42)
    info = json.loads(called(tmp_path, "store", "info", "features.store", "--json").stdout)
    assert info["arrays"]["map.meansd"] == {"shape": [42, 1024], "dtype": "float16"}
    lines = called(tmp_path, "store", "digest", "features.store", "--layer", "map.meansd")
    assert len(lines.stdout.splitlines()) == 14

    given = ["model=deep", "stream=appearance+map.meansd", "model.regressor=ridge", "bootstrap=100"]
    config = apply_overrides(FitConfig(), given)
    fit(tmp_path / "features.store", videos / "labels.csv", tmp_path / "run", config)
    (tmp_path / "new").mkdir()
    moving_square(tmp_path / "new" / "a.mp4", frames=4)
    called(tmp_path, "score", "new/", "--run", "run", *pack, "--store", "new.store")
    assert pd.read_csv(tmp_path / "scores.csv")["score"].notna().all()
    assert store.open(tmp_path / "new.store").layers["map.meansd"].rows == 4


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "--list" in called(tmp_path, "features", "x", code=2).stderr
    gone = called(tmp_path, "features", "x", "--layer", "a", code=2)
    assert "there is no such store" in gone.stderr
