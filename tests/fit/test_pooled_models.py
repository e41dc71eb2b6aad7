"""What holds for every model that sees a clip as one vector, and what each of them promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from sklearn.svm import SVC

import store
from stages.fit.batches import ClipData
from stages.fit.blind import BlindRegressor
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.deep import DeepRegressor, selected
from stages.fit.models import ModelError
from stages.fit.pooled_models import POOLED_MODELS, create, describe, option_names, words
from stages.fit.run import RunError, fit, load_run
from stages.fit.selective import GatedTowers, SelectiveSharing
from store.errors import StoreMismatchError
from store.layer_writer import open_layer
from store.schema import ClipRows
from tests.fit.fit_clips import make_store

QUICK: dict[str, dict[str, object]] = {
    "selective": {"members": 1, "epochs": 15, "channels": 16},
    "deep": {"regressor": "ridge"},
}


def stills(count: int, seed: int = 0) -> tuple[list[ClipData], np.ndarray, list[str]]:
    """One-frame clips: two arrays of 12 columns, a score in both, and whose sex is in the first.

    The sexes differ in mean, spread and shape of the first columns, the score is lower for one.
    """
    rng = np.random.default_rng(seed)
    sex = rng.integers(2, size=count)
    x = rng.normal(size=(count, 24))
    x[:, 0] += 3 * sex
    x[:, 1] *= 1 + sex
    score = 3 + x[:, 1] - 0.5 * x[:, 2] + x[:, 14] ** 2 - 0.5 * sex + rng.normal(size=count) * 0.2
    points = rng.normal(size=(count, 136)).astype(np.float32)
    clips = [
        ClipData(
            f"{k}",
            x[k : k + 1].astype(np.float16),
            points[k : k + 1],
            np.ones(1, bool),
            np.zeros(1),
            (12, 12),
        )
        for k in range(count)
    ]
    return clips, score, ["fm"[s] for s in sex]


CASES = [(name, QUICK.get(name, {})) for name in POOLED_MODELS]
CASES += [("blind", {"dims": 1}), ("deep", {"regressor": "svr+boosting"})]
CASES += [("meanpool", {"alpha": 50}), ("meanpool", {"regressor": "svr", "c": 2, "gamma": 0.6})]
CASES += [("statpool", {"regressor": "boosting", "leaves": 3})]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_saved_and_loaded_it_predicts_the_same(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    clips, score, sex = stills(60)
    model = create(name, 3, **options)
    model.fit(clips, score, sex)
    told, arrays = model.saved()
    save_file(arrays, tmp_path / "arrays")
    again = create(name, 3, **options)
    again.load(json.loads(json.dumps(told)), load_file(tmp_path / "arrays"))
    np.testing.assert_array_equal(again.predict(clips), model.predict(clips))
    twin = create(name, 3, **options).fit(clips, score, sex)
    np.testing.assert_array_equal(twin.predict(clips), model.predict(clips))
    blind = ClipData("x", clips[0].appearance, clips[0].landmark, np.zeros(1, bool), np.zeros(1))
    assert model.predict([blind])[0] == pytest.approx(score.mean())
    assert model.strength and describe(name).source


@pytest.mark.parametrize("name", POOLED_MODELS)
def test_options_that_it_lacks_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no option 'stream'") as caught:
        create(name, stream="both")
    assert all(option in caught.value.hint for option in option_names(name))


def test_deep_takes_the_regressor_and_the_block_that_hold_the_answer() -> None:
    clips, _, _ = stills(160)
    x = np.concatenate([c.appearance for c in clips]).astype(float)
    score = np.abs(x[:, 14]) + np.abs(x[:, 15])  # in the second array, and not for lines
    train, test = slice(0, 110), slice(110, None)
    auto = DeepRegressor().fit(clips[train], score[train])
    ridge = DeepRegressor(regressor="ridge").fit(clips[train], score[train])
    good, bad = (stats.pearsonr(m.predict(clips[test]), score[test])[0] for m in (auto, ridge))
    assert good > 0.6 and bad < 0.4
    members = {name: weight for name, weight in auto.strength.items() if name != "inner_error"}
    assert sum(members.values()) == pytest.approx(1)
    assert max(members, key=lambda name: members[name]).startswith("block1")
    best = DeepRegressor(combine="best").fit(clips[train], score[train])
    assert len(best.strength) == 2 and best.strength["inner_error"] >= auto.strength["inner_error"]


def test_wide_blocks_are_projected_without_loss() -> None:
    clips, score, _ = stills(40)
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(24, 3000))
    wide = [
        ClipData(c.clip, (c.appearance.astype(float) @ turn).astype(np.float32), c.landmark,
                 c.valid, c.timestamp)
        for c in clips
    ]  # fmt: skip
    model = DeepRegressor(regressor="bayes", streams="appearance").fit(wide, score)
    _, arrays = model.saved()
    assert arrays["scale0.projection"].shape[1] <= 39
    assert stats.pearsonr(model.predict(wide), score).statistic > 0.7


def test_selection_by_hand() -> None:
    y = np.array([1.0, 2.0, 3.0, 4.0])
    over, under, far = y + [1, -1, 1, -1], y - [1, -1, 1, -1], y + 9
    assert selected(np.stack([far, over, under]), y, 2).tolist() == [0, 0.5, 0.5]
    assert selected(np.stack([far, y]), y, 5).tolist() == [0, 1]


def test_blind_features_keep_the_score_and_do_not_tell_who() -> None:
    clips, score, sex = stills(1200)
    truth, train, test = np.asarray(sex), slice(0, 800), slice(800, None)
    raw = np.concatenate([c.appearance for c in clips]).astype(float)
    model = BlindRegressor(dims=3).fit(clips[train], score[train], sex[train])
    features = model.transform(clips)
    told = {}
    for name, x in (("raw", raw), ("blind", features)):
        teller = SVC(class_weight="balanced").fit(x[train], truth[train])
        told[name] = balanced_accuracy_score(truth[test], teller.predict(x[test]))
    # Chance is 0.5 with a standard error of 0.025.
    assert told["raw"] > 0.85 and told["blind"] < 0.575
    found = model.predict(clips[test])
    assert stats.pearsonr(found, score[test]).statistic > 0.4
    # The score's part that is the attribute's own is gone.
    gap = [found[truth[test] == s].mean() for s in "fm"]
    assert abs(gap[0] - gap[1]) < 0.25


def test_gates_let_through_what_serves_the_other_task() -> None:
    clips, score, sex = stills(700)
    train, test = slice(0, 500), slice(500, None)
    model = SelectiveSharing(members=1, epochs=40, channels=32)
    model.fit(clips[train], score[train], sex[train])
    assert stats.pearsonr(model.predict(clips[test]), score[test]).statistic > 0.4
    assert balanced_accuracy_score(sex[test], model.predict_attribute(clips[test])) > 0.75


def test_a_closed_gate_shares_nothing() -> None:
    import torch

    towers = GatedTowers(4, 3, 2, 0.0).eval()
    x = torch.randn(5, 4)
    with torch.no_grad():
        for gate in towers.gates:
            gate.weight.zero_()
            gate.bias.fill_(-1e4)
        alone = towers.score(torch.relu(towers.towers[0](x))).squeeze(1)
        torch.testing.assert_close(towers(x)[0], alone)
        towers.gates[0].bias.fill_(1e4)
        h = [torch.relu(tower(x)) for tower in towers.towers]
        open_ = towers.score(h[0] + towers.transfers[0](h[1])).squeeze(1)
        torch.testing.assert_close(towers(x)[0], open_)


def test_attributes_that_cannot_be_used_are_refused() -> None:
    clips, score, sex = stills(12)
    table = pd.DataFrame({"clip": ["a"], "score": [1.0], "sex": ["f"]})
    with pytest.raises(ModelError, match="column 'gender', which the labels lack") as caught:
        words(create("blind"), table)
    assert "sex" in caught.value.hint
    assert words(create("blind", attribute="sex"), table) == ["f"]
    assert words(create("deep"), table) is None
    for column in (["f"] * 12, [*sex[:11], ""]):
        with pytest.raises(ModelError, match="two values or more"):
            create("blind").fit(clips, score, column)
    with pytest.raises(ModelError, match="'x' stands in the column 'gender' only once"):
        create("blind").fit(clips, score, [*sex[:11], "x"])
    for option in ("dims=0", "dims=many"):
        key, value = option.split("=")
        with pytest.raises(ModelError, match="dims of model 'blind' must be a number from 1"):
            create("blind", **{key: value})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store with a layer that holds the score, and its labels."""
    home = tmp_path_factory.mktemp("pooled")
    labels = make_store(home / "f.store", clips=36)
    lines = ["clip,score,person,gender"]
    lines += [f"{c},{s:.6f},{p},{'fm'[k % 2]}" for k, (c, s, p) in enumerate(labels)]
    (home / "labels.csv").write_text("\n".join(lines) + "\n")
    add_layer(home / "f.store", dict((c, s) for c, s, _ in labels), "p")
    return home / "f.store", home / "labels.csv"


def add_layer(path: Path, scores: dict[str, float], pack: str) -> None:
    opened = store.open(path)
    told = {"layer": "7", "pool": "mean", "flip": False, "crops": False, "pack": pack}
    rows = np.random.default_rng(0).normal(size=(opened.n_rows, 3))
    for record in opened.records_by_start():
        start = record.start or 0
        rows[start : start + record.frames, 1] = scores.get(record.clip, np.nan)
    with open_layer(path, "seven", 3, told, overwrite=True) as writer:
        writer.append(rows)
        writer.finish()


@pytest.mark.parametrize("name", POOLED_MODELS)
def test_fitted_and_loaded_a_run_scores_a_store(
    made: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    path, labels = made
    given = [f"model={name}", "stream=appearance+seven", "bootstrap=100"]
    given += [f"model.{key}={value}" for key, value in QUICK.get(name, {}).items()]
    result = fit(path, labels, tmp_path / "run", apply_overrides(FitConfig(), given))
    if name == "deep":  # which reads the layer by itself
        assert result.test.src > 0.8
    run = load_run(tmp_path / "run")
    found = run.predict(path).set_index("clip")["score"]
    kept = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("clip")
    tested = kept[kept["part"] == "test"]
    np.testing.assert_allclose(found[tested.index], tested["prediction"], rtol=1e-6, atol=1e-8)


def test_a_run_refuses_a_layer_that_was_made_otherwise(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    path, labels = made
    given = ["model=meanpool", "stream=seven", "bootstrap=100"]
    fit(path, labels, tmp_path / "run", apply_overrides(FitConfig(), given))
    make_store(tmp_path / "g.store", clips=3)
    run = load_run(tmp_path / "run")
    with pytest.raises(StoreMismatchError, match="reads the layer 'seven'"):
        run.predict(tmp_path / "g.store")
    add_layer(tmp_path / "g.store", {}, "other")
    with pytest.raises(StoreMismatchError, match="made otherwise") as caught:
        run.predict(tmp_path / "g.store")
    assert "pipeline features VIDEOS --layer 7 --name seven" in caught.value.hint
    (tmp_path / "run" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match="not the arrays of this meanpool"):
        load_run(tmp_path / "run")


def test_a_network_reads_arrays_side_by_side(made: tuple[Path, Path], tmp_path: Path) -> None:
    path, labels = made
    given = ["model=tcn", "stream=seven+embedding", "epochs=2", "bootstrap=100"]
    fit(path, labels, tmp_path / "run", apply_overrides(FitConfig(), given))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["options"]["appearance_dim"] == 515
    assert len(load_run(tmp_path / "run").predict(path)) == 36


def test_strengths_that_are_set_are_kept_by_a_run(made: tuple[Path, Path], tmp_path: Path) -> None:
    path, labels = made
    given = ["model=meanpool", "model.alpha=70", "bootstrap=100", "normalise=zscore"]
    result = fit(path, labels, tmp_path / "run", apply_overrides(FitConfig(), given))
    run = load_run(tmp_path / "run")
    assert run.model.strength == {"alpha": 70.0}
    assert run.config.model_options == {"alpha": 70} and not result.epochs
    # What a pooled model predicts is the target, here relative to all clips, which have no subset.
    kept = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert abs(kept.loc[kept["part"] == "train", "target"].mean()) < 1e-9
    assert abs(kept["prediction"]).max() < 4
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json", "labels.csv", "metrics.json", "model.safetensors", "predictions.csv",
        "provenance.json", "split.csv",
    }  # fmt: skip


def test_what_says_nothing_of_frames_is_not_asked(made: tuple[Path, Path], tmp_path: Path) -> None:
    path, labels = made
    config = apply_overrides(FitConfig(), ["model=meanpool", "bootstrap=100"])
    with pytest.raises(ModelError, match="says nothing of single frames"):
        fit(path, labels, tmp_path / "run", config, take=lambda _: None)
    assert not (tmp_path / "run").exists()
    fit(path, labels, tmp_path / "run", config)
    with pytest.raises(ModelError, match="says nothing of single frames"):
        load_run(tmp_path / "run").predict(path, lambda _: None)


def test_rows_as_extraction_gives_them_are_scored_alike(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    path, labels = made
    opened = store.open(path)
    for name, given in (
        ("sides", ["model=deep", "model.regressor=ridge", "stream=appearance+embedding"]),
        ("layer", ["model=meanpool", "stream=appearance+seven"]),
    ):
        config = apply_overrides(FitConfig(), [*given, "bootstrap=100"])
        fit(path, labels, tmp_path / name, config)
    run = load_run(tmp_path / "sides")
    table = run.predict(path)
    found = run.predict_rows(ClipRows(**opened.clip(str(table["clip"][0]))))
    assert found == pytest.approx(float(table["score"][0]), rel=1e-6)
    with pytest.raises(RunError, match="which rows of extraction do not hold"):
        load_run(tmp_path / "layer").check_rows()
