from __future__ import annotations

import json
from pathlib import Path

import store
from tests.testing.clips import moving_square
from tests.testing.command import called
from tests.testing.packs import tiny_pack


def test_extract_keeps_crops_and_info_shows_them(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    moving_square(tmp_path / "videos" / "a.mp4", frames=6)
    tiny_pack(tmp_path / "pack")
    given = ("extract", "videos/", "--pack", "pack", "--workers", "1")
    called(tmp_path, *given, "--crops", "2", "--crop-size", "32")
    assert store.open(tmp_path / "features.store").crops("a.mp4")[1].shape == (2, 32, 32, 3)
    told = json.loads(called(tmp_path, "store", "info", "features.store", "--json").stdout)
    assert told["arrays"]["crop"] == {"shape": [2, 32, 32, 3], "dtype": "uint8"}
    called(tmp_path, "store", "verify", "features.store")
    refused = called(tmp_path, *given, "--crops", "3", code=2)
    assert "crops=2; this run asks for crops=3" in " ".join(refused.stderr.split())


def test_what_needs_a_local_store_says_so(tmp_path: Path) -> None:
    for args in (
        ("extract", ".", "--store", "s3://bucket/x.store"),
        ("store", "compact", "s3://bucket/x.store"),
        ("store", "verify", "--repair", "s3://bucket/x.store"),
        ("store", "merge", "out.store", "s3://bucket/x.store"),
        ("features", ".", "--layer", "507", "--store", "s3://bucket/x.store"),
    ):
        (tmp_path / "a.mp4").touch()
        done = called(tmp_path, *args, code=2)
        assert "expected a path on a local disk, got a URL" in " ".join(done.stderr.split()), args
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
