"""MDR as an array beside the store: what a generator says of every frame, and the generator."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.generator import Generator
from stages.fit.dynamics.training import frame_features
from stages.fit.loader import Budget, ClipLoader
from stages.fit.spans import ClipSpan, FeatureStore, arrays_of, check_arrays, span_table
from store.companion import ABOUT, Companion, CompanionError, open_companion, write_companion

KIND = "mdr"
WEIGHTS = "generator.safetensors"


def clip_loader(source: FeatureStore, spans: Sequence[ClipSpan], config: MdrConfig) -> ClipLoader:
    """Return the loader of the features that a generator reads.

    Raises
    ------
    MissingFeaturesError
        Clips that were imported lack an array.
    """
    check_arrays(source, spans, (*arrays_of(config.stream), "landmark"))
    return ClipLoader(
        source,
        spans,
        stream=config.stream,
        landmarks=config.landmarks,
        budget=Budget(config.budget),
    )


def write_features(
    generator: Generator,
    source: Any,
    config: MdrConfig,
    folder: Path,
    about: dict[str, Any],
) -> Companion:
    """Write the MDR of every frame with a face beside a store: (N, scales K) float16.

    Raises
    ------
    CompanionError, StoreWriteError
        As write_companion.
    """
    width = generator.psi.matrix.shape[1]
    columns = [f"T{window}_{k}" for window in generator.windows for k in range(width)]
    clips = clip_loader(source, span_table(source), config)
    settings = config.model_dump(mode="json", exclude={"out", "budget"})
    channels = generator.psi.matrix.shape[0]
    pack = dict(source.provenance).get("pack", {})
    return write_companion(
        folder,
        source,
        KIND,
        columns,
        _pieces(generator, clips),
        about={"config": settings, "channels": channels, "pack": pack, **about},
        extra=lambda path: save_file(_tensors(generator), path / WEIGHTS),
    )


@torch.no_grad()
def _pieces(generator: Generator, clips: ClipLoader) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    start = {span.clip: span.start for span in clips.clips}
    for clip in clips.iter_clips():
        d = generator(frame_features(clip)).flatten(1).numpy()  # (n, scales K)
        d[~clip.valid] = np.nan
        yield start[clip.clip], d


def _tensors(generator: Generator) -> dict[str, torch.Tensor]:
    return {k: v.detach().contiguous().clone() for k, v in generator.state_dict().items()}


def load_generator(folder: Path) -> tuple[Generator, MdrConfig, dict[str, Any]]:
    """Return the generator that lies with its features, its settings, and about.json.

    Raises
    ------
    CompanionError
        There is none, or it is damaged.
    """
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CompanionError(
            f"{folder / ABOUT}: cannot be read ({error})", "copy the folder again, or make it again"
        ) from None
    if about.get("kind") != KIND:
        raise CompanionError(
            f"{folder}: features of kind {about.get('kind')!r} cannot be made for new clips",
            "score a store for which you have them, or fit without features",
        )
    try:
        config = MdrConfig.model_validate(about["config"])
        generator = Generator(
            int(about["channels"]),
            config.windows,
            min(config.components, int(about["channels"])),
            config.hidden,
            config.dropout,
        )
        generator.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, ValidationError, SafetensorError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompanionError(
            f"{folder}: the generator cannot be read ({reason})", "make it again"
        ) from None
    generator.eval()
    return generator, config, about


def keep_generator(features: str, folder: Path) -> None:
    """Copy what is needed to make features again, without the features themselves.

    Of features that nothing can make again about.json alone is kept, so that it can be said.
    """
    found = open_companion(features).folder
    folder.mkdir(exist_ok=True)
    for name in (ABOUT, WEIGHTS):
        if (found / name).is_file():
            shutil.copyfile(found / name, folder / name)


def make_again(kept: Path, source: Any, folder: Path) -> Companion:
    """Make the features of another store with a generator that was kept.

    Raises
    ------
    CompanionError
        Nothing can make these features.
    """
    generator, config, about = load_generator(kept)
    return write_features(generator, source, config, folder, {"made_from": about["created"]})
