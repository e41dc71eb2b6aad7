"""`pipeline fit --model mdr --set form=pixel`: crops in, rasters out, tested on later crops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import store
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.ranking import FloatArray, accuracy, rank_svm, scale_results
from stages.fit.dynamics.run import Echo, MdrResult, write_ranking
from stages.fit.dynamics.training import scale_loss
from stages.fit.dynamics.unet import PixelGenerator
from stages.fit.dynamics.windows import around, spread
from stages.fit.grouping import persons_without_labels
from stages.fit.guard import TrainingError
from stages.fit.provenance import StorePath, versions
from stages.fit.reproducible import reproducible
from stages.fit.run_files import MDR_RESULT, write_json
from stages.fit.spans import ClipSpan, clip_spans
from stages.fit.whole_folder import check_absent, whole_folder
from store.errors import FacepipeError

RASTERS, WEIGHTS = "rasters.zarr", "generator.safetensors"
LEAST = 3  # crops that hold a pair to rank, and its target


class CropsError(FacepipeError, ValueError):
    """The store holds no crops, or too few of a clip to rank any."""


class CropClips:
    """Crops of the clips of a store, read when they are asked for.

    Parameters
    ----------
    source : Store or Stores
    spans : list of ClipSpan
    size : int
        Longest side; larger crops are averaged down.
    """

    def __init__(self, source: Any, spans: list[ClipSpan], size: int) -> None:
        self._source = source
        self.spans = spans
        self._size = size

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, place: int) -> Tensor:
        """(k, 3, S, S) float32 from 0 to 1, in the order of frames."""
        _, images = self._source.crops(self.spans[place].clip)
        crops = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255
        side = min(self._size, crops.shape[-1])
        return crops if side == crops.shape[-1] else adaptive_avg_pool2d(crops, side)


def fit_pixels(
    store_path: StorePath,
    run_dir: Path,
    config: MdrConfig,
    persons: Path | None = None,
    echo: Echo = lambda _: None,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> MdrResult:
    """Learn a U-Net a scale from the first crops of every clip and test it on the last ones.

    Windows count crops, which lie evenly in the clip; one that is longer than the held-out part of
    a clip ends with it. Of each clip the last ``held_out`` share is
    neither learnt from nor stands in a window that is.

    Parameters
    ----------
    store_path, persons, echo, progress
        As for fit_mdr; persons are what the intervals draw.
    run_dir : Path
        Must not exist. Gets mdr.json, ranking.csv, generator.safetensors, and rasters.zarr
        (M, S, S, 3 scales) float16, row for row the MDR of the store's array ``crop``.
    config : MdrConfig
        Of form ``pixel``.

    Raises
    ------
    CropsError
        No crops, or too few.
    StoreError, PersonsError, RunError, TrainingError
    """
    source = store.open(store_path)
    check_absent(run_dir)
    if source.crop_size is None:
        raise CropsError(
            f"{store_path}: holds no crops, which the pixel form learns from",
            "extract with --crops 64, or leave out form=pixel",
        )
    spans = list(clip_spans(source).values())
    clips = CropClips(source, spans, config.size)
    group, sentence = persons_without_labels(config.group, source, spans, persons)
    echo(sentence)
    with whole_folder(run_dir) as folder, reproducible(config.seed):
        generator = _learn(clips, config, progress)
        table = _test(generator, clips, config)
        tested = int(np.isfinite(table["mdr"]).any(axis=1).sum())
        if not tested:
            raise CropsError(
                f"{store_path}: no clip has {LEAST} crops among its last {config.held_out:.0%}",
                "extract more --crops, or set held_out higher",
            )
        results = scale_results(config.windows, table, group, config.bootstrap, config.seed)
        result = MdrResult(
            run_dir, results, tested, len(set(group)), config.epochs, None,
            "On crops that it has not seen, of the same persons, the rasters",
        )  # fmt: skip
        told = {"group": sentence, "versions": versions(), "config": config.model_dump(mode="json")}
        write_json(folder / MDR_RESULT, {**result.to_dict(), **told})
        write_ranking(folder / "ranking.csv", spans, group, table, config.windows)
        state = {k: v.detach().contiguous().clone() for k, v in generator.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        _write_rasters(generator, clips, source, folder / RASTERS)
    return result


def _learnt(crops: int, config: MdrConfig) -> int:
    """How many of a clip's crops are learnt from: all but the last ``held_out`` share."""
    return crops - round(config.held_out * crops)


def _learn(
    clips: CropClips, config: MdrConfig, progress: Callable[[dict[str, float]], None] | None
) -> PixelGenerator:
    generator = PixelGenerator(config.windows, max(config.hidden // 32, 1))
    squares, count = 0.0, 0
    for k in range(len(clips)):
        crops = clips[k]
        own = crops[: _learnt(len(crops), config)]
        if len(own) > 1:
            squares += float((own - own.mean(dim=0)).square().sum(dtype=torch.float64))
            count += own.numel()
    generator.unit.fill_(max((squares / max(count, 1)) ** 0.5, 1e-3))
    optimiser = torch.optim.AdamW(
        generator.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    rng = np.random.default_rng(config.seed)
    for epoch in range(1, config.epochs + 1):
        losses = []
        for k in rng.permutation(len(clips)):
            crops = clips[int(k)]
            own = crops[: _learnt(len(crops), config)]
            if len(own) < LEAST:
                continue
            chosen = rng.choice(len(own), min(config.targets, len(own)), replace=False)
            loss = _loss(generator, own, torch.from_numpy(chosen), config)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(f"the rank loss is not finite in epoch {epoch}", "lower lr")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
        if progress is not None:
            progress({"epoch": epoch, "loss": float(np.mean(losses)) if losses else float("nan")})
    return generator.eval()


def _loss(generator: PixelGenerator, crops: Tensor, places: Tensor, config: MdrConfig) -> Tensor:
    frames = generator.psi(crops)  # (n, P)
    d = generator(crops[places])  # (B, scales, P)
    losses = []
    for k, reach in enumerate(generator.windows):
        # A window need not be longer than the clip; each of its frames is 12,288 numbers.
        rows, there = around(places, len(crops), min(reach, len(crops) - 1))
        losses.append(scale_loss(d[:, k], frames[rows], there, config))
    return torch.stack(losses).mean()


@torch.no_grad()
def _test(generator: PixelGenerator, clips: CropClips, config: MdrConfig) -> dict[str, FloatArray]:
    """(n, scales) accuracies of the held-out crops by ``mdr``, ``still`` and ``rank_svm``."""
    names = ("mdr", "still", "rank_svm")
    table = {name: np.full((len(clips), len(config.windows)), np.nan) for name in names}
    for k in range(len(clips)):
        crops = clips[k]
        late = crops[_learnt(len(crops), config) :]
        if len(late) < LEAST:
            continue
        frames, d = generator.psi(late), generator(late)
        places, seen = torch.arange(len(late)), torch.ones(len(late), dtype=torch.bool)
        few = spread(places, config.bound)
        for column, reach in enumerate(generator.windows):
            of = min(reach, len(late) - 1)
            table["mdr"][k, column] = accuracy(d[:, column], places, frames, seen, of)
            table["still"][k, column] = accuracy(frames, places, frames, seen, of)
            table["rank_svm"][k, column] = rank_svm(few, frames, seen, of)
    return table


@torch.no_grad()
def _write_rasters(generator: PixelGenerator, clips: CropClips, source: Any, folder: Path) -> None:
    """Write the MDR of every crop, row for row as the store's array ``crop``; NaN for others."""
    start = {r.clip: r.start for r in source.crop_records() if r.track == 0}
    array: Any = None
    for k in range(len(clips)):
        crops = clips[k]
        if not len(crops):
            continue
        found: npt.NDArray[Any] = generator.rasters(crops).permute(0, 2, 3, 1).numpy()
        if array is None:
            array = zarr.create_array(
                folder,
                shape=(source.n_crops, *found.shape[1:]),
                dtype="float16",
                chunks=(1, *found.shape[1:]),
                fill_value=np.nan,
                dimension_names=("crop", "y", "x", "channel"),
            )
        first = start[clips.spans[k].clip]
        array[first : first + len(found)] = found
