from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import store
from stages.fit.action_units import TracksError, fit_au
from stages.fit.au_inputs import AuConfig
from stages.fit.config import ConfigError, read_settings
from stages.fit.persons import PersonsError
from store.companion import open_companion
from store.exchange_formats import import_from
from store.tracks import import_tracks
from tests.fit.openface_clips import UNITS, write_openface


@pytest.fixture(scope="module")
def openface(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A store of imported landmarks, the files that it is from, and what was planted in them."""
    folder = tmp_path_factory.mktemp("openface")
    planted = write_openface(folder / "csv")
    import_from(folder / "csv", "csv", folder / "faces.store")
    return folder / "faces.store", folder / "csv", planted


@pytest.mark.parametrize("regressor", ["ridge", "network"])
def test_planted_intensities_come_back_on_other_persons(
    openface: tuple[Path, Path, dict[str, np.ndarray]], tmp_path: Path, regressor: str
) -> None:
    path, files, planted = openface
    said: list[str] = []
    config = AuConfig(regressor=regressor, group="folder", folds=4, bootstrap=200)
    result = fit_au(path, files, tmp_path / "run", config, said.append)
    assert list(result.tracks) == list(UNITS)
    for found in result.tracks.values():
        assert found.icc >= 0.8 and found.icc_low > 0.5
        assert (found.n, found.groups) == (8 * 79, 8)
    assert any("landmarks alone" in line for line in said)
    told = json.loads((tmp_path / "run" / "au.json").read_text())
    assert told["mean_icc"] == pytest.approx(np.mean([a.icc for a in result.tracks.values()]))

    # What is written beside are the very predictions that were measured.
    beside = open_companion(tmp_path / "run" / "predictions")
    record = store.open(path).record("p03/talk")
    rows = beside.read(record.start or 0, (record.start or 0) + record.frames)
    assert np.isnan(rows[5]).all() and not np.isnan(np.delete(rows, 5, axis=0)).any()
    error = np.nanmean((rows - planted["p03/talk"]) ** 2)
    assert error < 1.0  # the variance is 3


def test_persons_held_out_teach_nothing(
    openface: tuple[Path, Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Labels of one person that contradict all others are not found by looking at that person."""
    path, _, planted = openface
    files = tmp_path / "csv"
    for name, values in planted.items():
        turned = 5 - values if name == "p00/talk" else values
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        lines = ["frame,AU12_r", *(f"{k + 1},{v}" for k, v in enumerate(turned[:, 1]) if k != 5)]
        (files / f"{name}.csv").write_text("\n".join(lines) + "\n")
    config = AuConfig(group="folder", folds=8, bootstrap=100)
    fit_au(path, files, tmp_path / "run", config)
    record = store.open(path).record("p00/talk")
    start = record.start or 0
    rows = open_companion(tmp_path / "run" / "predictions").read(start, start + record.frames)
    known = np.isfinite(rows[:, 0])
    truth = planted["p00/talk"][known, 1]
    assert np.corrcoef(rows[known, 0], truth)[0, 1] > 0.8


def test_tracks_known_in_other_frames_are_learnt_apart(
    openface: tuple[Path, Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    path, files, _ = openface
    with store.open(path) as opened:
        made = import_tracks(files, opened, tmp_path / "tracks").companion
    assert made.columns == UNITS
    # One track is unknown in a whole clip.
    import zarr

    array = zarr.open_array(made.folder / "array.zarr", mode="r+")
    record = store.open(path).record("p01/talk")
    array[record.start : (record.start or 0) + record.frames, 0] = np.nan
    config = AuConfig(group="folder", folds=4, bootstrap=100)
    result = fit_au(path, made.folder, tmp_path / "run", config)
    assert [a.n for a in result.tracks.values()] == [7 * 79, 8 * 79]
    assert min(a.icc for a in result.tracks.values()) >= 0.8


def test_mistakes_are_told(
    openface: tuple[Path, Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    path, files, _ = openface
    with pytest.raises(TracksError, match="nothing of that name"):
        fit_au(path, tmp_path / "none", tmp_path / "run", AuConfig())
    with pytest.raises(PersonsError, match="columns clip and person"):
        config = AuConfig(group="person", persons=tmp_path / "none.csv")
        fit_au(path, files, tmp_path / "run", config)
    with pytest.raises(ConfigError, match="did you mean 'regressor'"):
        read_settings(AuConfig, ["regresor=ridge"])
    with pytest.raises(ConfigError, match="folds"):
        read_settings(AuConfig, ["folds=1"])
    assert not (tmp_path / "run").exists()
