"""`pipeline fit --model mdr`, `--model au` and `pipeline store tracks` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fit.openface_clips import write_openface
from tests.fit.study_clips import make_study
from tests.testing.command import called

MDR = [
    part
    for setting in ("windows=2,4", "components=4", "hidden=8", "epochs=1", "folds=3", "bound=1")
    for part in ("--set", setting)
]
QUICK = [
    part
    for setting in ("epochs=1", "batch_size=8", "bootstrap=100", "refit=false")
    for part in ("--set", setting)
]


def test_mdr_needs_no_labels_and_evaluate_reads_it(tmp_path: Path) -> None:
    _, labels = make_study(tmp_path, clips=24, persons=12)
    hidden = labels.rename(tmp_path / "later.csv")
    done = called(tmp_path, "fit", "--model", "mdr", *MDR, "--json")
    told = json.loads(done.stdout)
    assert [scale["window"] for scale in told["scales"]] == [2, 4]
    assert {"mdr", "still", "gain", "rank_svm", "chance"} < set(told["scales"][0])
    assert told["features"] == str(tmp_path / "features.mdr")
    assert "12 persons that the embeddings show" in done.stderr

    third = ["--set", "features=features.mdr", "--labels", str(hidden)]
    models = ["--models", "tcn,meanpool", "--folds", "2", "--repeats", "1"]
    done = called(tmp_path, "evaluate", *models, *QUICK, *third, "--json")
    assert {row["contestant"] for row in json.loads(done.stdout)["rows"]} >= {"tcn", "meanpool"}
    # mdr itself stands in tables as ridge on what it says of clips.
    few = [
        part.replace("windows", "model.windows").replace("components", "model.components")
        for part in ("--set", "windows=2,4", "--set", "components=4", "--set", "model.epochs=1")
    ]
    own = ["--models", "mdr", "--folds", "2", "--repeats", "1", "--out", "own", *few, *QUICK]
    done = called(tmp_path, "evaluate", *own, "--labels", str(hidden), "--json")
    names = {row["contestant"] for row in json.loads(done.stdout)["rows"]}
    assert names >= {"mdr", "mdr (frames shuffled)", "meanpool", "constant"}
    # Others in the same place are another study.
    again = ["--set", "features=features.mdr"]
    called(tmp_path, "fit", "--model", "mdr", *MDR, "--run", "second")
    done = called(tmp_path, "evaluate", *models, *QUICK, *again, "--labels", str(hidden), code=2)
    assert "evaluation" in done.stderr


def test_action_units_in_one_command_or_two(tmp_path: Path) -> None:
    write_openface(tmp_path / "openface", clips=4, frames=30)
    called(tmp_path, "store", "import", "openface", "--from", "csv", "--store", "faces.store")
    fit = ["fit", "--model", "au", "--store", "faces.store", "--set", "group=folder"]
    few = ["--set", "folds=2", "--set", "bootstrap=100"]
    done = called(tmp_path, *fit, *few, "--labels", "openface", "--json")
    told = json.loads(done.stdout)
    assert set(told["tracks"]) == {"AU04_r", "AU12_r"}

    done = called(tmp_path, "store", "tracks", "openface", "--store", "faces.store", "--json")
    assert json.loads(done.stdout)["clips"] == 4
    done = called(tmp_path, *fit, *few, "--labels", "faces.tracks", "--json", "--run", "two")
    assert json.loads(done.stdout)["mean_icc"] == told["mean_icc"]
    table = called(tmp_path, *fit, *few, "--labels", "faces.tracks", "--run", "three").stdout
    assert "ICC(3,1)" in table and "AU12_r" in table

    evaluate = ["evaluate", "--models", "au", "--labels", "faces.tracks", "--store", "faces.store"]
    evaluate += ["--set", "group=folder", "--set", "bootstrap=100", "--folds", "2"]
    done = called(tmp_path, *evaluate, "--json")
    told_again = json.loads(done.stdout)
    assert told_again["mean_icc"] == told["mean_icc"]
    assert told_again["run"] == "evaluation"
    done = called(tmp_path, "evaluate", "--models", "au,tcn", code=2)
    assert "evaluate it alone" in done.stderr
    done = called(tmp_path, *evaluate, "--tune", "3", code=2)
    assert "au takes no --tune" in done.stderr

    done = called(tmp_path, *fit, "--labels", "nothing", code=2)
    assert "AU01_r" in done.stderr
