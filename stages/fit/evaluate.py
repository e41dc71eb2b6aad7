"""`pipeline evaluate`: models beside the standing baselines, by repeated grouped K-fold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.fit.compare import Comparison, compare
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.contestants import Contestant, choose_contestants
from stages.fit.explain import (
    Link,
    explain,
    explain_text,
    told_frames,
    write_frames,
    write_links,
)
from stages.fit.fold_runs import Diverged, diverged_folds, run_folds
from stages.fit.folds import check_training_sides
from stages.fit.provenance import versions
from stages.fit.report import (
    REPORT,
    check_folder,
    report_text,
    write_predictions,
    write_tables,
    write_text,
)
from stages.fit.spaces import Search
from stages.fit.study import Design, Echo, Study
from stages.fit.tasks import Accuracy
from stages.fit.tasks_report import accuracies, tasks_text, write_tasks
from stages.fit.tuned import chosen_text, optimism
from stages.fit.verdict import divergence_sentences

FoldDone = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluated:
    """What a study came to.

    Attributes
    ----------
    folder : Path
    comparison : Comparison
    asked : list of str
        Names of the contestants that are compared with everyone else.
    predictions : dict of (repeats, n) float64
    study : Study
    links : list of Link
        What attention goes with; empty unless that was asked for.
    tasks : dict of list of Accuracy
        By contestant, what its tasks beside the score came to; only contestants that have some.
    diverged : dict of list of Diverged
        By contestant, the folds without a finite result; only contestants that have some.
    """

    folder: Path
    comparison: Comparison
    asked: list[str]
    predictions: dict[str, npt.NDArray[np.float64]]
    study: Study
    links: list[Link] = field(default_factory=list)
    tasks: dict[str, list[Accuracy]] = field(default_factory=dict)
    diverged: dict[str, list[Diverged]] = field(default_factory=dict)


def evaluate(
    design: Design,
    names: Sequence[str],
    folder: Path,
    settings: Sequence[str] = (),
    jobs: int = 1,
    echo: Echo = lambda _: None,
    progress: FoldDone = lambda _name, _done, _all: None,
    search: Search | None = None,
    tuned_on: Collection[str] = (),
    *,
    explained: bool = False,
    per_frame: Path | None = None,
) -> Evaluated:
    """Measure models by repeated grouped K-fold and write a folder of results.

    Run again with the same arguments it does only the folds that are missing, so that an
    interrupted study goes on, and models can be added to a finished one.

    Parameters
    ----------
    design : Design
        ``seed`` and ``val`` come from the settings (``seed``, ``split.val``), and ``normalise``
        and ``group`` where the design has none, or ``auto``.
    names : sequence of str
        Models, see contestants.choose_contestants.
    folder : Path
        Gets report.md, tables.csv, comparisons.csv, predictions.csv, config.json and folds/.
    settings : sequence of str
        key=value, as for `pipeline fit`.
    jobs : int
        Processes.
    echo : callable
        Gets what there is to say about labels and groups, one line each.
    progress : callable
        Gets a contestant's name, how many folds are done, and of how many.
    search : Search, optional
        Each model also stands in the tables tuned: its settings are searched for within every
        outer fold's training clips.
    tuned_on : collection of str
        Clips whose labels the settings were chosen by, so that the report can say so.
    explained : bool
        Correlate networks' out-of-fold attention with pose and expression: explain.csv, and a
        section of the report.
    per_frame : Path, optional
        A folder that gets what networks say of every frame out of fold, one CSV a clip, below
        MODEL/repeatK.

    Raises
    ------
    StoreError, LabelError, ConfigError, ModelError, SplitError, PersonsError, StudyError,
    FrameWriteError, SearchError
    """
    base = apply_overrides(FitConfig(), [t for t in settings if not t.strip().startswith("model.")])
    study = open_study(design, base, echo)
    contestants = choose_contestants(names, settings, study.attributes, search)
    lead = optimism(study.clips, tuned_on)
    if lead:
        echo(lead)
    tuned = [c for c in contestants if c.search is not None]
    asked = [*names, *(c.name for c in tuned)]
    framed = explained or per_frame is not None
    evaluated = run_study(study, contestants, asked, folder, base, jobs, progress, frames=framed)
    told = told_frames(study, contestants, folder) if framed else {}
    if per_frame is not None:
        write_frames(per_frame, contestants, told)
    section = ""
    if explained:
        links = explain(study, told, samples=base.bootstrap)
        write_links(folder, links)
        with_attention = {link.contestant for link in links}
        section = explain_text(links, [name for name in asked if name not in with_attention])
        evaluated = replace(evaluated, links=links)
    lost = divergence_sentences(evaluated.diverged, study.design)
    parts = [lead, *lost, chosen_text(study, tuned, folder)]
    lead = "\n\n".join(part for part in parts if part)
    text = report_text(
        study, evaluated.comparison, evaluated.asked, "Evaluation", lead, after=section
    )
    text += tasks_text(evaluated.tasks)
    write_text(folder / REPORT, text)
    return evaluated


def open_study(design: Design, base: FitConfig, echo: Echo) -> Study:
    """Open a store and its labels and deal the folds, with the settings' seed and share."""
    normalise = base.normalise if design.normalise == "none" else design.normalise
    group = base.group if design.group == "auto" else design.group
    settled = {
        **vars(design), "seed": base.seed, "val": base.split.val, "normalise": normalise,
        "group": group,
    }  # fmt: skip
    study = Study(Design(**settled))
    for line in [*study.labels.warnings, *study.notes, *study.grouping.sentences]:
        echo(line)
    return study


def run_study(
    study: Study,
    contestants: Sequence[Contestant],
    asked: list[str],
    folder: Path,
    base: FitConfig,
    jobs: int = 1,
    progress: FoldDone = lambda _name, _done, _all: None,
    frames: bool = False,
) -> Evaluated:
    """Fit every contestant in every fold that is missing, and write all tables but the report."""
    if any(c.kind == "network" for c in contestants):
        check_training_sides(study.grouping.folds, study.grouping.group)
    check_folder(
        folder,
        {
            "study": study.fingerprint(),
            "contestants": {c.name: c.settings() for c in contestants},
            "bootstrap": base.bootstrap,
            "versions": versions(),
        },
    )
    total = len(contestants) * study.grouping.folds.shape[0] * study.design.folds
    count = 0

    def done(task: tuple[Contestant, int, int]) -> None:
        nonlocal count
        count += 1
        progress(task[0].name, count, total)

    predictions = run_folds(study, contestants, folder, jobs, done, frames)
    folds = study.grouping.folds
    target = np.empty(folds.shape)
    for repeat in range(len(folds)):
        for fold in range(study.design.folds):
            here = folds[repeat] == fold
            target[repeat, here] = study.target(repeat, fold)[here]
    comparison = compare(
        predictions,
        target,
        study.score,
        study.subset,
        study.grouping.group,
        normalised=study.design.normalise != "none",
        without_order=[c.name for c in contestants if c.kind == "constant"],
        asked=asked,
        samples=base.bootstrap,
        seed=study.design.seed,
    )
    write_tables(folder, comparison)
    write_predictions(folder, study, target, predictions)
    tasks = {c.name: accuracies(study, folder, c) for c in contestants}
    tasks = {name: found for name, found in tasks.items() if found}
    write_tasks(folder, tasks)
    lost = {c.name: diverged_folds(study, folder, c) for c in contestants}
    return Evaluated(
        folder,
        comparison,
        asked,
        predictions,
        study,
        tasks=tasks,
        diverged={name: found for name, found in lost.items() if found},
    )
