from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import store
from stages.fit import models
from stages.fit.batches import Batch
from stages.fit.config import FitConfig, TrainConfig, apply_overrides
from stages.fit.evaluate import evaluate
from stages.fit.models import vision
from stages.fit.models.frames import Windows, by_clip, over_windows
from stages.fit.models.hmtnet import HMTNet
from stages.fit.models.trunks import Depths, Trunk, vgg_m_trunk
from stages.fit.run import fit, load_run
from stages.fit.run_folder import make_loader
from stages.fit.smooth_huber import score_loss
from stages.fit.spans import clip_spans
from stages.fit.study import Design
from stages.fit.tasks import TaskError
from tests.fit.crop_clips import make_pictures
from tests.fit.study_clips import make_study
from tests.fit.test_models import inputs

TASKS = {"gender": ["f", "m"], "race": ["x", "y", "z"]}
QUICK = ["epochs=1", "batch_size=8", "bootstrap=100"]
SMALL = ["model.size=64", "model.margin=0.25"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


def small(**options: object) -> HMTNet:
    torch.manual_seed(0)
    given = {"appearance_dim": 5, "hidden": 8, "dropout": 0.0, "input_dropout": 0.0, **options}
    model = models.create("hmtnet", **given)
    assert isinstance(model, HMTNet)
    return model


def batch(words: list[dict[str, str]], score: list[float]) -> Batch:
    app, lmk, mask = inputs()
    return Batch(
        app, lmk, mask, torch.zeros(3, 11), torch.tensor(score), ("a", "b", "c"), tuple(words)
    )


def test_the_loss_is_the_weighted_sum_of_the_tasks_by_hand() -> None:
    model = small(tasks=TASKS, class_weight=1.5, score_weight=3.0)
    words = [{"gender": "f", "race": "z"}, {"gender": "", "race": "x"}, {"gender": "?", "race": ""}]
    given = batch(words, [0.5, -1.0, 2.0])
    told = model(given.appearance, given.landmark, given.mask)
    gender, race = told.classes["gender"], told.classes["race"]
    assert gender.shape == (3, 2) and race.shape == (3, 3)
    torch.testing.assert_close(race.exp().sum(dim=1), torch.ones(3))
    want = 3.0 * score_loss(told.score, given.score)
    want = want + 1.5 * -gender[0, 0] + 1.5 * -(race[0, 2] + race[1, 0]) / 2
    torch.testing.assert_close(model.loss(told, given, TrainConfig()), want)
    silent = batch([{}, {}, {}], [0.5, -1.0, 2.0])
    alone = model.loss(told, silent, TrainConfig())
    torch.testing.assert_close(alone, 3.0 * score_loss(told.score, given.score))


def test_tasks_leave_early_and_in_the_middle_and_the_score_last() -> None:
    model = small(tasks={k: ["a", "b"] for k in ("one", "two", "three")})
    app, lmk, mask = inputs()
    told = model(app, lmk, mask)

    def reached(name: str) -> set[int]:
        """Trunk's layers that a task's loss moves."""
        model.zero_grad()
        told.classes[name].sum().backward(retain_graph=True)
        layers = [block.parameters() for block in model.trunk.blocks]
        return {k for k, ps in enumerate(layers) if any(p.grad is not None for p in ps)}

    assert reached("one") == reached("two") == {1} and reached("three") == {1, 2}
    model.zero_grad()
    told.score.sum().backward()
    assert all(p.grad is not None for p in model.trunk.parameters())


def test_classes_are_those_of_the_training_clips(pictures: tuple[Path, Path]) -> None:
    """A class that the tested clips alone have is nothing that could be learnt."""
    source = store.open(pictures[0])
    spans = list(clip_spans(source).values())
    words = {s.clip: {"hand": "lrx"[min(k, 2)]} for k, s in enumerate(reversed(spans))}
    config = FitConfig(model="hmtnet")
    loader = make_loader(source, spans[:-2], {}, config, attributes=words)
    with pytest.raises(TaskError, match="1 class"):
        HMTNet.settle({"tasks": ["hand"]}, loader.attributes)
    loader = make_loader(source, spans[5:], {}, config, attributes=words)
    for named in (None, "hand", ["hand"]):
        found = HMTNet.settle({"tasks": named}, loader.attributes)["tasks"]
        assert found == {"hand": ["l", "r", "x"]}


def test_logits_may_be_negative() -> None:
    """The published ReLU on them keeps two thirds of a probability from any class of three."""
    model = small(tasks=TASKS)
    app, lmk, mask = inputs()
    with torch.no_grad():
        for branch in model.branch:
            branch.layers[-1].bias.fill_(-50.0)  # type: ignore[union-attr, index]
            branch.layers[-1].bias[0] = 0.0  # type: ignore[union-attr, index]
    told = model.predict(app, lmk, mask)
    assert bool((told.classes["race"][:, 0].exp() > 0.99).all())


def test_aggregates_by_hand() -> None:
    class Add(nn.Module):
        def __init__(self, much: float) -> None:
            super().__init__()
            self.much = much

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.much

    steps = [Add(1), Add(10), Add(100)]
    depths = Depths(((0,), (0, 1), (0, 1, 2)), (2, 2, 2))
    x = torch.zeros(1, 2, 3, 3)
    average = Trunk(steps, depths, "average")
    assert [float(m.mean()) for m in average(x)] == [1, 6, (1 + 11 + 111) / 3]
    concat = Trunk(steps, depths, "concat")
    assert concat.channels == (2, 4, 6) and average.channels == (2, 2, 2)
    late = concat(x)[2]
    assert late.shape == (1, 6, 3, 3) and late[0, :, 0, 0].tolist() == [1, 1, 11, 11, 111, 111]


def test_vgg_m_has_the_published_shape() -> None:
    with torch.device("meta"):
        trunk = vgg_m_trunk(224, "average")
        maps = trunk.eval()(torch.zeros(1, 3, 224, 224))
    assert [tuple(m.shape) for m in maps] == [(1, 512, 13, 13), (1, 512, 13, 13), (1, 4096, 1, 1)]
    kernels = [tuple(b.weight.shape) for b in trunk.blocks if isinstance(b, nn.Conv2d)]
    assert kernels == [
        (96, 3, 7, 7),
        (256, 96, 5, 5),
        *[(512, 256, 3, 3), (512, 512, 3, 3), (512, 512, 3, 3)],
        (4096, 512, 6, 6),
        (4096, 4096, 1, 1),
    ]
    with torch.device("meta"):
        for size in (64, 96, 112, 160):
            last = vgg_m_trunk(size, "average").eval()(torch.zeros(1, 3, size, size))[2]
            assert last.shape[:2] == (1, 4096)


def test_five_windows_are_the_middle_and_the_corners() -> None:
    image = torch.arange(36, dtype=torch.uint8).view(1, 6, 6, 1).expand(2, 6, 6, 3)
    windows = Windows(4, "five")(image)
    assert windows.shape == (10, 3, 4, 4) and windows.dtype == torch.float32
    assert windows[::2, 0, 0, 0].tolist() == [7, 0, 2, 12, 14]
    assert Windows(4, "centre")(image)[:, 0, 0, 0].tolist() == [7, 7]
    assert torch.equal(Windows(6, "five")(image)[0, 0], image[0, :, :, 0].float())
    values = torch.arange(10.0).unsqueeze(1)
    assert over_windows(values, 2).squeeze(1).tolist() == [4, 5]


def test_a_clip_is_the_mean_of_its_valid_frames() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    frames, clips = by_clip(torch.tensor([[1.0], [5.0], [7.0], [99.0]]), mask)  # one to spare
    assert frames.squeeze(2).tolist() == [[1, 0, 5], [0, 0, 0], [0, 7, 0]]
    assert clips.squeeze(1).tolist() == [3, 0, 7]


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "resnext50", "mobilenet", "vgg-m"])
def test_each_network_scores_crops_and_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    if name in ("mobilenet", "vgg-m"):
        model = models.create("hmtnet", backbone=name, size=64, tasks=TASKS)
    else:
        model = models.create(name, size=64)
    crops = torch.randint(0, 256, (2, 2, 73, 73, 3), dtype=torch.uint8)
    mask = torch.tensor([[True, True], [True, False]])
    told = model.predict(crops, torch.zeros(2, 2, 136), mask)
    assert told.score.shape == (2,) and bool((told.frame_score[~mask] == 0).all())
    torch.testing.assert_close(told.score[0], told.frame_score[0].mean())
    alone = model.predict(crops[1:, :1], torch.zeros(1, 1, 136), mask[1:, :1])
    torch.testing.assert_close(alone.score[0], told.score[1], rtol=1e-3, atol=1e-5)
    assert set(told.classes) == (set(TASKS) if name in ("mobilenet", "vgg-m") else set())


def test_a_batch_of_one_still_can_be_trained_on() -> None:
    model = small(tasks=TASKS).train()
    one = torch.ones(1, 1, dtype=torch.bool)
    told = model(torch.randn(1, 1, 5), torch.zeros(1, 1, 136), one)
    (told.score.sum() + told.classes["race"][0, 0]).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) > 10 and all(bool(torch.isfinite(g).all()) for g in grads)
    assert told.score.shape == (1,)


@pytest.mark.parametrize("training", [True, False])
def test_clips_without_a_face_score_0(training: bool) -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    crops = torch.zeros(2, 3, 73, 73, 3, dtype=torch.uint8)
    for model, x in (
        (small(tasks=TASKS), torch.zeros(2, 3, 5)),
        (models.create("hmtnet", backbone="vgg-m", size=64), crops),
    ):
        told = model.train(training)(x, torch.zeros(2, 3, 136), none)
        assert told.score.tolist() == [0, 0] and told.frame_score.shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "vgg16"}, "features, vgg-m, resnet18"),
        ({"aggregate": "max"}, "average, concat"),
        ({"score_loss": "huber"}, "smooth-huber, slide"),
        ({"delta": 0.0}, "delta must be above 0"),
        ({"score_weight": -1.0}, "score_weight must be at least 0"),
        ({"backbone": "vgg-m", "size": 32}, "size must be at least 64"),
        ({"backbone": "vgg-m", "margin": 2.0}, "margin must be at most 1"),
        ({"backbone": "vgg-m", "test_crops": "ten"}, "centre, five"),
        ({"weights": "x.safetensors"}, "weights go with a network of torchvision"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(models.ModelError, match=said):
        models.create("hmtnet", **options)


def test_it_learns_a_score_and_a_class_from_crops(
    pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = [*QUICK, *SMALL, "model.backbone=mobilenet", "model.test_crops=centre", "lr=0.003"]
    given = [*asked, "epochs=8", "ema=0", "refit=false", "split.val=0.2"]
    result = fit(*pictures, tmp_path / "run", apply_overrides(FitConfig(model="hmtnet"), given))
    rows = result.epochs
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    (frame,) = result.tasks
    assert frame.task == "frame" and frame.n == result.test.n
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert told["tasks"][0]["accuracy"] == frame.accuracy
    run = load_run(tmp_path / "run")
    assert run.reads_crops and run.model.tasks() == {"frame": ["dark", "light"]}
    table = run.predict(pictures[0])
    kept = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("clip")["prediction"]
    np.testing.assert_allclose(table["score"], kept[table["clip"]], rtol=1e-4, atol=1e-5)


def test_weights_come_from_a_local_file_for_the_training_alone(
    pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    network = vision.build("resnet18")
    file = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    asked = [*QUICK, *SMALL, f"model.weights={file}", "lr=1e-9", "refit=false"]
    fit(*pictures, tmp_path / "run", apply_overrides(FitConfig(model="resnet18"), asked))
    kept = load_file(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(kept["body.layer3.0.conv1.weight"], network.layer3[0].conv1.weight)
    assert kept["body.fc.weight"].shape == (1, 512)
    file.unlink()
    assert len(load_run(tmp_path / "run").predict(pictures[0])) == 24

    with pytest.raises(models.ModelError, match="cannot|not a safetensors file"):
        models.create("resnet18", weights=str(file)).start()
    save_file({"conv1.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(models.ModelError, match=r"conv1\.weight of shape \(64, 3, 7, 7\)"):
        models.create("hmtnet", backbone="resnet18", weights=str(file)).start()


def test_evaluate_tells_the_tasks_and_does_not_shuffle_what_sees_no_order(
    tmp_path: Path,
) -> None:
    path, labels = make_study(tmp_path)
    design = Design((path,), labels, folds=3, repeats=2, group="person")
    settings = [*QUICK, "model.hidden=8"]
    evaluated = evaluate(design, ["hmtnet"], tmp_path / "out", settings)
    assert set(evaluated.predictions) == {"hmtnet", "meanpool", "attributes only", "constant"}
    (gender,) = evaluated.tasks["hmtnet"]
    assert (gender.task, gender.n, gender.majority) == ("gender", 36, 0.5)
    truth = pd.read_csv(labels).set_index("clip")["gender"]
    folds = evaluated.study.grouping.folds
    right = []
    for repeat in range(2):
        for fold in range(3):
            file = tmp_path / "out" / "folds" / "hmtnet" / f"repeat{repeat}-fold{fold}.json"
            words = json.loads(file.read_text())["classes"]["gender"]
            clips = np.asarray(evaluated.study.clips)[folds[repeat] == fold]
            right += [truth[c] == w for c, w in zip(clips, words, strict=True)]
    assert gender.accuracy == pytest.approx(np.mean(right))
    table = pd.read_csv(tmp_path / "out" / "tasks.csv")
    assert table.loc[0, "contestant"] == "hmtnet" and math.isclose(
        table.loc[0, "accuracy"], gender.accuracy
    )
    assert "## Tasks beside the score" in (tmp_path / "out" / "report.md").read_text()


def test_static_networks_stand_beside_the_temporal_ones(
    pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    path, labels = pictures
    design = Design((path,), labels, folds=2, repeats=1, group="person")
    settings = [*QUICK, *SMALL, "model.channels=4", "model.levels=2", "train.refit=false"]
    evaluated = evaluate(design, ["2stcn", "resnet18"], tmp_path / "out", settings)
    told = {row.name for row in evaluated.comparison.rows}
    assert {"2stcn", "resnet18", "2stcn (frames shuffled)", "meanpool"} <= told
    assert "resnet18 (frames shuffled)" not in told and not evaluated.tasks
    assert np.isfinite(evaluated.predictions["resnet18"]).all()
