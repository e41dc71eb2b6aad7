from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.fit import models
from stages.fit.ablate import PAPER_COLUMNS, ROWS, ablate, layout_sentence
from stages.fit.compare import compare
from stages.fit.config import ConfigError
from stages.fit.study import Design
from tests.fit.study_clips import make_study

SETTINGS = [
    "epochs=1",
    "batch_size=8",
    "model.channels=2",
    "model.levels=1",
    "bootstrap=100",
    "refit=false",
]
FILES = ["report.md", "tables.csv", "comparisons.csv", "predictions.csv"]


def test_the_rows_are_the_papers() -> None:
    assert len(ROWS) == len({str(row.options) for row in ROWS}) == 10
    assert [row.paper[-1] for row in ROWS] == [
        0.1606, 0.1602, 0.1692, 0.1820, 0.1696, 0.1693, 0.1908, 0.1712, 0.1699, 0.1671,
    ]  # fmt: skip
    assert ROWS[6].paper == (0.3848, 0.2498, 0.3071, 0.3272, 0.1908)
    built = [models.create("2stcn", **row.options, channels=2) for row in ROWS]
    assert [m.attention for m in built] == [False] * 5 + [True] * 5
    # One TCN where there is one stream or the streams are joined before it.
    assert [len(m.tcn) for m in built] == [1, 1, 1, 2, 2, 1, 2, 2, 2, 2]
    assert [type(m.pool[0]).__name__[:3] for m in built] == ["Max"] * 8 + ["Aff", "Las"]


def test_the_last_frame_of_row_10_sees_the_first() -> None:
    """A centred one would see the second half of the clip alone."""
    frames = 40
    options = ROWS[9].options | {"max_frames": frames, "channels": 4, "appearance_dim": 6}
    model = models.create("2stcn", **options).eval()
    x = torch.randn(1, frames, 6, requires_grad=True)
    landmark = torch.randn(1, frames, 136)
    model(x, landmark, torch.ones(1, frames, dtype=torch.bool)).score.sum().backward()
    assert (x.grad[0].abs().sum(dim=1) > 0).all()  # type: ignore[index]


def test_what_the_rows_differ_in_cannot_be_set(tmp_path: Path) -> None:
    design = Design((tmp_path,), tmp_path)
    for setting in ("model.streams=both", "model.temporal_fusion=max", "model=2stcn"):
        with pytest.raises(ConfigError, match="what the rows of the ablation differ in"):
            ablate(design, tmp_path / "out", [setting])


def test_the_sentence_names_rows_by_their_numbers() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=(1, 300))
    noise = {row.name: 0.3 if row.name.startswith("7") else 3.0 for row in ROWS}
    noise["10 attention, decision, last"] = 1e6
    predictions = {name: score + sd * rng.normal(size=score.shape) for name, sd in noise.items()}
    group = [str(k) for k in range(300)]
    found = compare(predictions, score, score[0], [""] * 300, group, samples=200)
    text = layout_sentence(found)
    assert text.startswith(
        "On All the data supports that row 1, 2, 3, 4, 5, 6, 7, 8, 9 rank better"
    )
    assert "and that row 7 ranks better than row 1, 2, 3, 4, 5, 6, 8, 9, 10." in text
    equal = compare(dict.fromkeys(noise, rng.normal(size=score.shape)), score, score[0],
                    [""] * 300, group, samples=200)  # fmt: skip
    text = layout_sentence(equal)
    assert text.startswith("On All the data supports for no row") and "no difference" in text


def test_the_ten_rows_stand_beside_the_papers_and_jobs_change_nothing(tmp_path: Path) -> None:
    paths = make_study(tmp_path, clips=24, persons=12)
    design = Design((paths[0],), paths[1], folds=2, repeats=1)
    ablate(design, tmp_path / "one", SETTINGS)
    # Half of the folds are kept, the others are fitted by two processes.
    for k, file in enumerate(sorted((tmp_path / "one").glob("folds/*/*.json"))):
        if k % 2:
            target = tmp_path / "two" / file.relative_to(tmp_path / "one")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (tmp_path / "two" / "config.json").write_bytes((tmp_path / "one" / "config.json").read_bytes())
    ablate(design, tmp_path / "two", SETTINGS, jobs=2)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    text = (tmp_path / "one" / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(tuple(f"| {k} |" for k in
             range(1, 11)))]  # fmt: skip
    assert len(lines) == 10
    assert "for orientation only" in text
    assert "On All the data supports" in text
    cells = [cell.strip() for cell in lines[6].strip("|").split("|")]
    assert cells[:5] == ["7", "A + L", "yes", "decision", "max"]
    tables = pd.read_csv(tmp_path / "one" / "tables.csv")
    mine = tables.query("contestant == '7 attention, decision' and statistic == 'src'")
    by_subset = dict(zip(mine["subset"], mine["value"], strict=True))
    for cell, subset in zip(cells[5:8], ["S0", "S1", "All"], strict=True):
        assert cell.startswith(f"{by_subset[subset]:.3f} [")
    assert cells[8:] == [f"{value:.4f}" for value in ROWS[6].paper]
    assert len(PAPER_COLUMNS) == 5
    assert {"meanpool", "attributes only", "constant",
            "7 attention, decision (frames shuffled)"} <= set(tables["contestant"])  # fmt: skip
