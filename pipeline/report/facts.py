"""What a run and its store say: the tables behind the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import store
from stages.fit.bias import Attribute, attribute_sentences, compare_levels, level_columns
from stages.fit.compare import ALL, Comparison, compare
from stages.fit.logs import EPOCHS
from stages.fit.pooled_base import PooledModel
from stages.fit.run import BASELINE, Run, RunError, load_run
from stages.fit.run_files import LABELS, PREDICTIONS, SPLIT
from stages.fit.run_folder import tells_frames
from stages.fit.verdict import difference_sentences, subset_sentences
from store.tables import unguard

RIVAL = "time-averaged ridge"


@dataclass(frozen=True)
class Facts:
    """A run as tables.

    Attributes
    ----------
    run : Run
    source : Store, Stores or None
        Its store, open; None where it is not to be found.
    store_path : str
        Where it is, or was.
    clips : DataFrame
        A row a labelled clip: clip, part, group, score (what was to be predicted), raw (the score
        as labelled), prediction, the baseline's prediction, error, off (ranks apart, as a share of
        the held-out clips; NaN elsewhere), subset, and the labels' other columns.
    epochs : DataFrame
        epoch, train_loss, val_mse, val_src, lr; empty where the model is not trained in epochs.
    labelled : bool
        Whether the run holds its labels; those of facepipe before this page do not.
    """

    run: Run
    source: store.Store | store.Stores | None
    store_path: str
    clips: pd.DataFrame
    epochs: pd.DataFrame
    labelled: bool

    @property
    def model(self) -> str:
        """The model's name."""
        return self.run.config.model

    @property
    def tells_frames(self) -> bool:
        """Whether the model says something of every frame."""
        return tells_frames(self.run.config)

    @property
    def relative(self) -> bool:
        """Whether what was predicted is the score relative to its subset."""
        return self.run.config.normalise != "none"

    @property
    def held_out(self) -> pd.DataFrame:
        """Rows of the test clips."""
        return self.clips[self.clips["part"] == "test"]


def read_facts(run_dir: Path, store_path: list[str] | None) -> Facts:
    """Read a run folder and open its store.

    Parameters
    ----------
    run_dir : Path
    store_path : list of str, optional
        One store, or several read as one. Left out: where it was when the run was fitted; the page
        does without if it is there no longer.

    Raises
    ------
    RunError, StoreError, StoreMismatchError
    """
    run = load_run(run_dir)
    clips = _table(run_dir / PREDICTIONS).merge(_table(run_dir / SPLIT), on=["clip", "part"])
    labelled = (run_dir / LABELS).is_file()
    if labelled:
        labels = _table(run_dir / LABELS, text=True).drop(columns="score")
        taken = [c for c in labels if c != "clip" and c in clips]
        clips = clips.merge(labels.drop(columns=taken), on="clip", how="left")
    if "subset" not in clips:
        clips["subset"] = ""
    clips["subset"] = clips["subset"].fillna("")
    clips["raw"] = clips["score"]
    if "target" in clips:
        clips["score"] = clips.pop("target")
    clips["error"] = clips["prediction"] - clips["score"]
    test = clips["part"] == "test"
    ranks = clips.loc[test, ["prediction", "score"]].rank()
    clips["off"] = np.nan
    clips.loc[test, "off"] = (ranks["prediction"] - ranks["score"]).abs() / max(test.sum() - 1, 1)
    noted = run.provenance.get("store_path", "")
    places = store_path or ([noted] if isinstance(noted, str) else list(noted))
    source: store.Store | store.Stores | None = None
    if store_path or all(Path(p).exists() for p in places if p) and any(places):
        source = store.open(places[0] if len(places) == 1 else places)
        run.check_store(source.provenance)
    # Models that are not trained in epochs have no such file.
    trained = run.best_epoch > 0
    epochs = _table(run_dir / EPOCHS) if trained else pd.DataFrame({"epoch": []})
    return Facts(run, source, ", ".join(places), clips, epochs, labelled)


def _table(path: Path, text: bool = False) -> pd.DataFrame:
    """Read a table of the run; its words stay words: 'NA' may be a clip."""
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
        found = found.rename(columns=unguard).map(unguard)
        if not text:
            named = ("clip", "subset", "part", "group")
            numbers = [c for c in found if c not in named]
            found[numbers] = found[numbers].replace("", "nan").astype(np.float64)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: cannot be read ({reason})", "fit again") from None
    return found


@dataclass(frozen=True)
class Verdict:
    """Tables of SRC and what they support, in words by subset."""

    comparison: Comparison
    words: dict[str, list[str]]


def judge(facts: Facts) -> Verdict:
    """Measure the model and its baseline on the held-out clips, all and by subset."""
    table, config = facts.held_out, facts.run.config
    score = table["score"].to_numpy()
    names = {facts.model: "prediction", RIVAL: BASELINE}
    comparison = compare(
        {name: table[[column]].to_numpy().T for name, column in names.items()},
        score[None],
        table["raw"].to_numpy(),
        table["subset"].tolist(),
        table["group"].tolist(),
        normalised=facts.relative,
        samples=config.bootstrap,
        seed=config.seed,
    )
    words = {subset: subset_sentences(comparison, subset) for subset in comparison.subsets()}
    words[ALL] = [*words[ALL], *difference_sentences(comparison, [facts.model])]
    return Verdict(comparison, words)


def judge_attributes(facts: Facts) -> list[tuple[Attribute, list[str]]]:
    """Errors and ranks on the held-out clips by subset and by every attribute of the labels."""
    table = facts.held_out
    known = [c for c in table if c not in _OURS]
    found = []
    for name, level in level_columns(table[known]).items():
        attribute = compare_levels(
            name,
            level,
            table["prediction"].to_numpy(),
            table["score"].to_numpy(),
            table["group"].tolist(),
            samples=facts.run.config.bootstrap,
            seed=facts.run.config.seed,
        )
        found.append((attribute, attribute_sentences(attribute)))
    return found


_OURS = {"clip", "part", "group", "score", "raw", "prediction", BASELINE, "error", "off", "person"}


def settings(facts: Facts) -> list[tuple[str, Any]]:
    """Return what was trained on what, as pairs for a table."""
    run, saved = facts.run, facts.run.provenance
    pack, recipe = saved.get("store", {}).get("pack", {}), saved.get("store", {}).get("recipe", {})
    labels, versions = saved.get("labels", {}), saved.get("versions", {})
    parts = ", ".join(
        f"{len(t)} {part} ({t['group'].nunique()} groups)"
        for part in ("train", "val", "test")
        for t in [facts.clips[facts.clips["part"] == part]]
    )
    weights = run.weights
    config = run.config
    options = ", ".join(f"{k} {v}" for k, v in config.model_options.items()) or "all as default"
    return [
        ("run", str(run.folder)),
        ("fitted", saved.get("created", "")),
        ("model", f"{config.model}, {weights:,} weights; options: {options}"),
        ("clips", parts),
        ("predicted", f"the score relative to its subset ({config.normalise})"
                      if facts.relative else "the score as it is"),
        ("labels", f"{labels.get('file', '')} (sha256 {str(labels.get('sha256', ''))[:12]})"),
        ("features", f"{config.stream} and landmarks ({config.landmarks}) from {facts.store_path}"),
        ("pack", f"{pack.get('name', '')} ({pack.get('fingerprint', '')[:12]}); licence: "
                 f"{pack.get('licence', 'unknown')}"),
        ("extraction", ", ".join(f"{k} {v}" for k, v in recipe.items())),
        ("training", ", ".join(f"{k} {v}" for k, v in _training(run).items())),
        ("seed", str(config.seed)),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
    ]  # fmt: skip


def _training(run: Run) -> dict[str, Any]:
    """Return settings of the training; of a pooled model what it chose on the training clips."""
    model = run.model
    return model.strength if isinstance(model, PooledModel) else run.config.train.model_dump()
