from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import store
from stages.fit import models
from stages.fit.batches import Batch
from stages.fit.config import ConfigError, FitConfig, TrainConfig, apply_overrides
from stages.fit.guard import TrainingError, culprits
from stages.fit.learner import Learner
from stages.fit.loader import ClipLoader
from stages.fit.reproducible import reproducible
from stages.fit.run import fit
from stages.fit.spans import clip_spans

SMALL: dict[str, Any] = {"channels": 4, "levels": 2}
QUICK = TrainConfig(batch_size=8)
Made = tuple[Path, Path]


def batch_of(made: Made) -> Batch:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())[:8]
    scores = {s.clip: math.sin(k) for k, s in enumerate(spans)}
    return next(iter(ClipLoader(source, spans, scores).batches(8)))


@pytest.mark.parametrize("spoilt", ["score", "appearance", "landmark"])
def test_what_is_not_finite_is_reported_with_its_clip_alone(made: Made, spoilt: str) -> None:
    batch = batch_of(made)
    getattr(batch, spoilt)[3].view(-1)[0] = math.inf
    learner = Learner(models.create("2stcn", **SMALL), QUICK)
    with pytest.raises(TrainingError, match=r"the loss is not finite .* because of") as caught:
        learner.step(batch)
    assert str(caught.value).endswith(f"because of {batch.clips[3]}")


def test_a_gradient_that_is_not_finite_is_reported_before_the_step(made: Made) -> None:
    """The error of one clip is finite, its square's gradient is not."""
    batch = batch_of(made)
    model = models.create("2stcn", **SMALL)
    before = copy.deepcopy(model.state_dict())

    def too_steep(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.where(torch.arange(len(gradient)) == 5, math.inf, 1.0)

    forward = model.forward

    def hooked(*arguments: torch.Tensor) -> models.Prediction:
        prediction = forward(*arguments)
        if len(prediction.score) == 8:
            prediction.score.register_hook(too_steep)
        return prediction

    model.forward = hooked  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        Learner(model, QUICK).step(batch)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_that_are_to_blame_blame_no_clip(made: Made) -> None:
    batch = batch_of(made)
    model = models.create("2stcn", **SMALL)
    assert culprits(model, batch) == []
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    assert culprits(model, batch) == []
    with pytest.raises(TrainingError, match="on the clips " + ", ".join(batch.clips)):
        Learner(model, QUICK).step(batch)


def test_compiling_changes_the_speed_alone(made: Made) -> None:
    """The compiled step is taken; without a compiler at hand torch's eager backend stands in."""
    batch = batch_of(made)
    found = []
    for compiled in (False, True):
        with reproducible(0):
            model = models.create("2stcn", **SMALL, dropout=0.0, clip_noise=0.0,
                                  appearance_dropout=0.0, landmark_dropout=0.0)  # fmt: skip
            config = QUICK.model_copy(update={"compile": compiled})
            with pytest.MonkeyPatch.context() as patch:
                used: list[object] = []
                make = torch.compile

                def eager(model: Any, used: list[object] = used, make: Any = make, **_: Any) -> Any:
                    used.append(model)
                    return make(model, backend="eager", dynamic=True)

                patch.setattr(torch, "compile", eager)
                learner = Learner(model, config)
                assert used == ([model] if compiled else [])
                found.append((*learner.step(batch), *learner.step(batch)))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_device_that_is_not_there_is_an_error(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as it is without a GPU
    config = apply_overrides(FitConfig(), ["train.device=cuda", "train.amp=true"])
    with pytest.raises(ConfigError, match="no CUDA device here") as caught:
        fit(*made, tmp_path / "run", config)
    assert caught.value.exit_code == 2 and not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_mixed_precision_trains_on_cuda(made: Made) -> None:
    batch = batch_of(made)
    losses = []
    for amp in (False, True):
        with reproducible(0):
            model = models.create("2stcn", **SMALL)
            learner = Learner(model, QUICK.model_copy(update={"device": "cuda", "amp": amp}))
            losses.append([learner.step(batch.to(learner.device))[0] for _ in range(10)])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_mixed_precision_is_for_cuda() -> None:
    with pytest.raises(ConfigError, match=r"amp=true needs train\.device=cuda"):
        apply_overrides(FitConfig(), ["train.amp=true"])


def test_tensorboard_gets_what_the_table_gets_also_after_an_interruption(
    made: Made, tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    changes = ["epochs=3", "batch_size=8", "model.channels=4", "bootstrap=100", "tensorboard=true"]
    config = apply_overrides(FitConfig(), changes)

    def interrupt(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*made, tmp_path / "run", config, progress=interrupt)
    assert len(pd.read_csv(tmp_path / "run" / "epochs.csv")) == 2
    fit(*made, tmp_path / "run", config)
    table = pd.read_csv(tmp_path / "run" / "epochs.csv").set_index("epoch")
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    for name in ("train_loss", "grad_norm", "lr", "val_mse", "val_src"):
        told = {event.step: event.value for event in found.Scalars(f"train/{name}")}
        assert told == pytest.approx(table[name].to_dict(), rel=1e-6)
    assert found.Scalars("refit/train_loss")


def test_tensorboard_that_is_missing_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stages.fit.logs.find_spec",
        lambda name: None if name == "tensorboard" else importlib.util.find_spec(name),
    )
    config = apply_overrides(FitConfig(), ["train.tensorboard=true"])
    with pytest.raises(ConfigError, match="needs the package tensorboard") as caught:
        fit(*made, tmp_path / "run", config)
    assert caught.value.exit_code == 2 and "facepipe[tensorboard]" in caught.value.hint
    assert not (tmp_path / "run").exists()
