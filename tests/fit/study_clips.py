"""Stores of people who can be told apart by their embeddings, for folds, groups and studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import store
from tests.fit.fit_clips import PROVENANCE, clip_rows, record


def like_lite(
    rng: np.random.Generator, persons: npt.ArrayLike, cosine: float = 0.61
) -> npt.NDArray[np.float64]:
    """Embeddings of clips of those persons, cosine ``cosine`` within one, about 0 between two."""
    code = np.asarray(persons)
    who = rng.normal(size=(int(code.max()) + 1, 512))
    own = rng.normal(size=(len(code), 512))
    rows = np.sqrt(cosine) * who[code] + np.sqrt(1 - cosine) * own
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def make_study(
    folder: Path, clips: int = 36, persons: int = 12, seed: int = 0, of_person: float = 0.0
) -> tuple[Path, Path]:
    """Write a store and its labels: clip, score, person, subset (S0, S1) and gender.

    The score is the amplitude of the mouth's motion, plus ``of_person`` times a value that is the
    person's own and says nothing about anybody else's.
    """
    rng = np.random.default_rng(seed)
    who = np.arange(clips) % persons
    embedding = like_lite(rng, who)
    worth = rng.normal(size=persons)
    lines = ["clip,score,person,subset,gender"]
    path = folder / "features.store"
    with store.Writer(path, PROVENANCE) as writer:
        for k in range(clips):
            amplitude = float(rng.uniform(1, 12))
            rows = clip_rows(rng, int(rng.integers(10, 14)), amplitude, missing=k % 3)
            shown = rows.valid[:, None]
            rows.embedding[:] = np.where(shown, embedding[k], np.nan).astype(np.float16)
            rows.appearance[:] = rows.embedding
            name = f"p{who[k]:02d}/clip{k:03d}.mp4"
            writer.append(record(name, rows), rows)
            score = amplitude + of_person * worth[who[k]]
            sex = "fm"[who[k] % 2]
            lines.append(f"{name},{score:.6f},p{who[k]:02d},S{who[k] % 4 // 2},{sex}")
        writer.flush()
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    return path, labels
