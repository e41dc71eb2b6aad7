"""`pipeline ablate`: the ten rows of the 2S-TCN paper's ablation, on any store and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.fit.compare import ALL, Comparison
from stages.fit.config import ConfigError, FitConfig, apply_overrides
from stages.fit.contestants import Contestant, standing
from stages.fit.evaluate import Evaluated, FoldDone, open_study, run_study
from stages.fit.report import (
    REPORT,
    estimate_text,
    markdown_table,
    markdown_text,
    report_text,
    write_text,
)
from stages.fit.study import Design, Echo
from stages.fit.verdict import divergence_sentences

PAPER_COLUMNS = ("S0", "S1", "S2", "S3", ALL)
TITLE = "Ablation of the 2S-TCN"
NOTE = """\
The paper's figures (Table III, on VFAP) stand beside for orientation only: its data and labels are
others than these, its split, its hyper-parameters and how its epoch was chosen are not stated, and
it gives no intervals. With 20 % of VFAP's subsets for testing the standard error of an SRC is .06
to .17, larger than nearly every gap between its rows.

What is ours and differs between rows: the TCNs of row 10 are causal, as Bai et al.'s are, so that
the last frame, whose score it takes, sees the whole clip; those of the other rows are centred, and
a centred last frame would see the second half of it only. Rows of two streams are trained with one
stream hidden from part of the clips (appearance_dropout, landmark_dropout), which rows 1 and 2, of
one stream, cannot have: a gap to them may be that, too."""


@dataclass(frozen=True)
class AblationRow:
    """One row of the paper's Table III: the model's switches and the paper's SRC.

    ``paper`` holds S0, S1, S2, S3 and All.
    """

    name: str
    options: dict[str, Any]
    paper: tuple[float, float, float, float, float]

    def cells(self) -> list[str]:
        """Modality, attention, modality fusion and temporal fusion, as the table shows them."""
        streams = {"both": "A + L", "appearance": "A", "landmarks": "L"}[self.options["streams"]]
        return [
            streams,
            "yes" if self.options.get("attention") else "",
            self.options.get("modality_fusion", ""),
            self.options["temporal_fusion"],
        ]


def _row(
    name: str,
    streams: str,
    attention: bool,
    fusion: str,
    pooling: str,
    *paper: float,
) -> AblationRow:
    options: dict[str, Any] = {"streams": streams, "temporal_fusion": pooling}
    if streams == "both":
        options |= {"attention": attention, "modality_fusion": fusion}
    if pooling == "last":  # see NOTE
        options["causal"] = True
    s0, s1, s2, s3, everything = paper
    return AblationRow(name, options, (s0, s1, s2, s3, everything))


ROWS = (
    _row("1 appearance", "appearance", False, "", "max", 0.2784, 0.2162, 0.2359, 0.2769, 0.1606),
    _row("2 landmarks", "landmarks", False, "", "max", 0.3064, 0.1995, 0.2568, 0.3026, 0.1602),
    _row("3 feature", "both", False, "feature", "max", 0.3122, 0.2235, 0.2778, 0.3170, 0.1692),
    _row("4 decision", "both", False, "decision", "max", 0.3380, 0.2209, 0.3018, 0.3077, 0.1820),
    _row("5 score", "both", False, "score", "max", 0.3331, 0.2133, 0.2830, 0.3255, 0.1696),
    _row(
        "6 attention, feature", "both", True, "feature", "max",
        0.3847, 0.2478, 0.3065, 0.3269, 0.1693,
    ),
    _row(
        "7 attention, decision", "both", True, "decision", "max",
        0.3848, 0.2498, 0.3071, 0.3272, 0.1908,
    ),
    _row(
        "8 attention, score", "both", True, "score", "max",
        0.3548, 0.2309, 0.2981, 0.3360, 0.1712,
    ),
    _row(
        "9 attention, decision, affine", "both", True, "decision", "affine",
        0.3294, 0.2225, 0.3066, 0.3236, 0.1699,
    ),
    _row(
        "10 attention, decision, last", "both", True, "decision", "last",
        0.3169, 0.2163, 0.2720, 0.3209, 0.1671,
    ),
)  # fmt: skip
FULL = ROWS[6]  # attention, decision-level, max: the paper's best


def ablate(
    design: Design,
    folder: Path,
    settings: Sequence[str] = (),
    jobs: int = 1,
    echo: Echo = lambda _: None,
    progress: FoldDone = lambda _name, _done, _all: None,
) -> Evaluated:
    """Measure the ten rows of the paper's ablation by the protocol of ``evaluate``.

    Beside them stand the baselines, and the paper's best row on shuffled frames. Resumable as
    ``evaluate`` is, with the same files.

    Parameters
    ----------
    design, folder, settings, jobs, echo, progress
        As for ``evaluate``; settings hold for every row and cannot be what the rows differ in.

    Raises
    ------
    ConfigError
        A setting of the table itself; else as ``evaluate``.
    """
    switches = {f"model.{key}" for row in ROWS for key in row.options} - {"model.causal"}
    for text in settings:
        key = text.partition("=")[0].strip()
        if key in switches or key == "model":
            raise ConfigError(
                f"{key} is what the rows of the ablation differ in", "leave that setting out"
            )
    base = apply_overrides(FitConfig(), settings)
    study = open_study(design, base, echo)
    rows = [contestant(row, base) for row in ROWS]
    contestants = [
        *rows,
        contestant(FULL, base).in_disorder(),
        *standing(base.model_copy(update={"model_options": {}}), study.attributes),
    ]
    # One row against the others, settled beforehand: 45 pairs would leave no p to find.
    evaluated = run_study(study, contestants, [FULL.name], folder, base, jobs, progress)
    lead = "\n\n".join(
        [
            *divergence_sentences(evaluated.diverged, evaluated.study.design),
            "## In the paper's layout",
            layout(evaluated.comparison),
            layout_sentence(evaluated.comparison),
            NOTE,
        ]
    )
    text = report_text(study, evaluated.comparison, evaluated.asked, TITLE, lead)
    write_text(folder / REPORT, text)
    return evaluated


def contestant(row: AblationRow, base: FitConfig) -> Contestant:
    """One row as a contestant, with the base's settings."""
    options = base.model_options | row.options
    return Contestant(row.name, "network", base.model_copy(update={"model_options": options}))


def layout(comparison: Comparison) -> str:
    """Table III as the paper prints it, our SRC with its interval, the paper's figures beside."""
    subsets = [*(s for s in comparison.subsets() if s != ALL), ALL]
    found = {(row.name, row.subset): row.src for row in comparison.rows}
    columns = ["", "modality", "attention", "modality fusion", "temporal fusion"]
    columns += map(markdown_text, subsets)
    columns += [f"paper {name}" for name in PAPER_COLUMNS]
    lines = [
        [row.name.partition(" ")[0], *row.cells()]
        + [estimate_text(found[row.name, subset]) for subset in subsets]
        + [f"{value:.4f}" for value in row.paper]
        for row in ROWS
    ]
    return markdown_table(columns, lines)


def layout_sentence(comparison: Comparison) -> str:
    """Say which of the ten rows rank better than chance on All, and which the best one beats."""
    names = {row.name: row.name.partition(" ")[0] for row in ROWS}
    above = [names[r.name] for r in comparison.of(ALL) if r.name in names and r.src.low > 0]
    found = {names[n]: comparison.difference(FULL.name, n) for n in names if n != FULL.name}
    held = {number: d for number, d in found.items() if d is not None and d.holds}
    better = [number for number, d in held.items() if d.value > 0]
    worse = [number for number, d in held.items() if d.value < 0]
    said = [f"better than row {', '.join(better)}"] if better else []
    said += [f"worse than row {', '.join(worse)}"] if worse else []
    text = (
        f"On All the data supports that row {', '.join(above)} rank better than chance"
        if above
        else "On All the data supports for no row that it ranks better than chance"
    )
    if said:
        return f"{text}, and that row {names[FULL.name]} ranks {' and '.join(said)}."
    return (
        f"{text}; it supports no difference between row {names[FULL.name]}, the paper's best, and "
        "any other."
    )
