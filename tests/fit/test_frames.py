"""What a model says of every frame: each part's meaning, and the tables that tell it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import store
from stages.fit import models
from stages.fit.batches import middle
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.frames import (
    ClipFrames,
    FrameSink,
    FrameWriteError,
    csv_writer,
    load_frames,
    save_frames,
)
from stages.fit.loader import ClipLoader
from stages.fit.models.gru import memory_pooling, memory_shares
from stages.fit.models.pooling import AffinePooling, LastPooling, MaxPooling, SoftMaxPooling
from stages.fit.run import fit, load_run
from stages.fit.spans import clip_spans
from stages.fit.trainer import LabelScale, predict
from tests.fit.test_models import inputs
from tests.fit.test_rivals import NAMES, TIME, small

SCORE = torch.tensor([[1.0, 9.0, 3.0, 2.0, 7.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True, False, True, True, False], [False] * 5])


def test_the_frame_that_won_has_it_all() -> None:
    for pooling, place in ((MaxPooling(), 2), (LastPooling(), 3)):
        pooled, shares = pooling.with_shares(SCORE, MASK)
        assert shares.tolist() == [[float(k == place) for k in range(5)], [0.0] * 5]
        assert float((shares * SCORE).sum()) == pooled[0].item()


def test_affine_shares_are_the_layers_own_weights_on_the_frames() -> None:
    affine = AffinePooling(points=5)  # valid scores 1 3 2 at 0, .5, 1 -> 1 2 3 2.5 2
    with torch.no_grad():
        affine.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 4.0, 0.5]))
        affine.bias.fill_(10)
    pooled, shares = affine.with_shares(SCORE, MASK)
    torch.testing.assert_close(shares[0], torch.tensor([1 + 1, 0, 1 - 1 + 2, 2 + 0.5, 0]))
    assert float((shares[0] * SCORE[0]).sum()) + 10 == pytest.approx(pooled[0].item())
    assert shares[1].tolist() == [0.0] * 5 and not shares.requires_grad


def test_soft_maximum_shares_are_its_derivative() -> None:
    pooling = SoftMaxPooling(2.0)
    score, weight = (
        SCORE.clone().requires_grad_(),
        torch.tensor([[0.2, 1, 0.9, 0.1, 1]]).expand(2, 5),
    )
    pooled, shares = pooling.with_shares(score, MASK, weight)
    (gradient,) = torch.autograd.grad(pooled.sum(), score)
    torch.testing.assert_close(shares, gradient)


def test_memory_shares_give_the_mean_of_memory_pooling() -> None:
    q, dense = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)), torch.ones(2, 9) > 0
    dense[1, 6:] = False
    q = q * dense
    felt = memory_pooling(q, dense, 4, 0.3)
    mean = felt.sum(dim=1) / dense.sum(dim=1)
    shares = memory_shares(q, dense, 4, 0.3)
    torch.testing.assert_close((shares * q).sum(dim=1), mean)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    assert bool((shares[~dense] == 0).all()) and bool((shares >= 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_every_model_tells_what_each_frame_had_in_the_score(name: str) -> None:
    app, lmk, mask = inputs()
    model = small(name)
    told = model.predict(app, lmk, mask, TIME)
    torch.testing.assert_close(told.won.sum(dim=1), torch.ones(3))
    assert bool((told.won[~mask] == 0).all())
    if name not in ("2stcn-plus", "transformer"):  # a log of exponentials; heads of their own
        taken = (told.won * told.frame_score).sum(dim=1)
        torch.testing.assert_close(taken, told.score, rtol=1e-4, atol=1e-5)
    clip, n = 1, 7
    alone = model.predict(*(x[clip : clip + 1, :n] for x in (app, lmk, mask, TIME)))
    torch.testing.assert_close(alone.won[0], told.won[clip, :n], rtol=1e-4, atol=1e-5)
    mask[0] = False
    assert bool((model.predict(app, lmk, mask, TIME).won[0] == 0).all())
    assert bool(torch.isfinite(model.predict(app, lmk, mask, TIME).won).all())


def test_attention_of_plus_is_that_of_its_enhancement() -> None:
    app, lmk, mask = inputs()
    model = small("2stcn-plus")
    with torch.no_grad():
        model.gate.linear.weight.zero_()  # type: ignore[union-attr, operator]
        model.gate.linear.bias.zero_()  # type: ignore[union-attr, operator]
    told = model.predict(app, lmk, mask, TIME)
    assert told.attention is not None and bool((told.attention[mask] == 0.5).all())


class Telling(models.TemporalModel):
    """Says of each frame what its first appearance channel says."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))  # what a network's device is known by

    def forward(self, appearance, landmark, mask, timestamp=None):  # type: ignore[no-untyped-def]
        score = appearance[:, :, 0] * mask
        return models.Prediction(score.sum(1), score, score + mask, won=score / 10)

    def set_statistics(self, statistics: object) -> None: ...


@pytest.mark.parametrize(
    ("fps", "max_frames", "read"),
    [
        (None, None, lambda v: np.arange(len(v))),
        (None, 4, lambda v: np.arange(len(v))[middle(v, 4)]),
        (12.5, None, lambda v: np.arange(0, len(v), 2)),
        (75.0, None, lambda v: (np.arange(3 * len(v) - 2) + 1) // 3),
    ],
)
def test_rows_are_the_stores_frames_whatever_the_model_reads(  # type: ignore[no-untyped-def]
    made: tuple[Path, Path], fps: float | None, max_frames: int | None, read
) -> None:
    source = store.open(made[0])
    spans = clip_spans(source)
    found: dict[str, ClipFrames] = {}
    sink = FrameSink(source, spans, lambda f: found.update({f.clip: f}))
    loader = ClipLoader(source, list(spans.values()), fps=fps, max_frames=max_frames)
    predict(Telling(), loader, 8, sink.watch(LabelScale(100.0, 2.0)))
    assert found.keys() == spans.keys()
    for clip, frames in found.items():
        rows = source.clip(clip)
        n, valid = len(rows["valid"]), rows["valid"]
        said = np.where(valid, rows["appearance"][:, 0].astype(np.float64), 0)
        once = np.bincount(read(valid), minlength=n) * valid
        np.testing.assert_allclose(frames.score, np.where(once, 100 + 2 * said, np.nan), rtol=1e-6)
        np.testing.assert_allclose(frames.attention, np.where(once, said + 1, np.nan), rtol=1e-6)
        np.testing.assert_allclose(frames.won, once * said / 10, rtol=1e-5, atol=1e-7)
        table = frames.table()
        names = ["frame", "timestamp_s", "valid", "attention", "score", "won"]
        assert list(table.columns) == names
        assert table["valid"].tolist() == valid.astype(int).tolist()
        assert table["timestamp_s"].tolist() == rows["timestamp"].tolist()


def _frames(clip: str, **changes: object) -> ClipFrames:
    n = np.arange(3.0)
    given = {"timestamp": n, "valid": n > 0, "attention": n + np.nan, "score": n, "won": n / 3}
    return ClipFrames(clip, **{**given, **changes})  # type: ignore[arg-type]


def test_files_of_clips_are_safe_and_each_its_own(tmp_path: Path) -> None:
    names = ["a/b.mp4", "a/b.mp4.csv", "a:b.mp4", 'x"<y>?.mp4', "..\\up.mp4", ".hidden.mp4",
             "=cmd()", "ü" * 120 + ".mp4", "ü" * 120 + ".avi"]  # fmt: skip
    folder = tmp_path / "frames"
    write = csv_writer(folder)
    for name in names:
        write(_frames(name))
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) == len(names)
    assert all(p.resolve().is_relative_to(folder.resolve()) for p in files)
    assert all(p.name.endswith(".csv") and len(p.name.encode()) <= 255 for p in files)
    assert [p.name for p in tmp_path.iterdir()] == ["frames"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FrameWriteError, match="file/frames: cannot be written") as caught:
        csv_writer(tmp_path / "file" / "frames")
    assert caught.value.exit_code == 2


def test_kept_frames_come_back_as_they_were(tmp_path: Path) -> None:
    clips = [_frames("a"), _frames("b/ü"), _frames("c", attention=np.ones(3))]
    save_frames(tmp_path / "f.npz", clips)
    back = load_frames(tmp_path / "f.npz")
    assert back is not None and [c.clip for c in back] == ["a", "b/ü", "c"]
    for mine, theirs in zip(clips, back, strict=True):
        pd.testing.assert_frame_equal(mine.table(), theirs.table())
    assert load_frames(tmp_path / "none.npz") is None
    whole = (tmp_path / "f.npz").read_bytes()
    (tmp_path / "f.npz").write_bytes(whole[: len(whole) // 2])
    assert load_frames(tmp_path / "f.npz") is None


def test_fit_and_score_tell_the_frames_of_the_predictions_they_write(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    config = apply_overrides(
        FitConfig(),
        ["epochs=2", "batch_size=8", "model.channels=4", "model.levels=2", "split.test=0.3",
         "bootstrap=100", "model.direction=both"],
    )  # fmt: skip
    told: dict[str, ClipFrames] = {}
    result = fit(*made, tmp_path / "run", config, take=lambda f: told.update({f.clip: f}))
    written = pd.read_csv(result.run_dir / "predictions.csv").set_index("clip")["prediction"]
    assert set(told) == set(written.index)
    for clip, frames in told.items():
        score, won = frames.score[frames.valid], frames.won[frames.valid]
        assert won.max() == won.sum() == 1
        assert score[won.argmax()] == score.max() == pytest.approx(written[clip], abs=1e-4)
        assert frames.attention_landmark is not None
        assert np.isnan(frames.score[~frames.valid]).all()
    again: dict[str, ClipFrames] = {}
    load_run(result.run_dir).predict(made[0], lambda f: again.update({f.clip: f}))
    records = {r.clip: r for r in store.open(made[0]).records()}
    assert all(len(again[c].valid) == records[c].frames for c in written.index)
