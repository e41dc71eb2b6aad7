from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import store
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.pixels import CropsError, fit_pixels
from stages.fit.dynamics.unet import PixelGenerator, UNet
from store.schema import ClipCrops
from tests.fit.fit_clips import PROVENANCE, clip_rows, record

SMALL = {"form": "pixel", "windows": (2, 3), "hidden": 64, "epochs": 2, "targets": 8, "bound": 2}


def drifting(path: Path, clips: int = 4, frames: int = 24, size: int = 16, crops: int = 24) -> Path:
    """Crops of a bright disc that goes round; near frames overlap more than far ones."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    with store.Writer(path, PROVENANCE, crop_size=size) as writer:
        for k in range(clips):
            rows = clip_rows(rng, frames, 1.0)
            angle = 2 * np.pi * np.arange(frames) / frames + rng.uniform(0, 6)
            cx, cy = size / 2 + 4 * np.cos(angle), size / 2 + 4 * np.sin(angle)
            away = (x - cx[:, None, None]) ** 2 + (y - cy[:, None, None]) ** 2
            images = np.repeat((200 * np.exp(-away / 12))[..., None], 3, axis=3)
            images = np.clip(images + rng.normal(size=images.shape) * 5, 0, 255).astype(np.uint8)
            kept = np.arange(frames)[:crops]
            object.__setattr__(rows, "crops", ClipCrops(kept, images[kept]))
            writer.append(record(f"clip{k}.mp4", rows), rows)
        writer.flush()
    return path


def test_held_out_crops_are_ranked_above_chance(tmp_path: Path) -> None:
    path = drifting(tmp_path / "crops.store")
    config = MdrConfig(**SMALL, group="clip", bootstrap=200)
    result = fit_pixels(path, tmp_path / "run", config)
    assert (result.clips, result.features) == (4, None)
    for scale in result.scales:
        assert scale.mdr.low > 0.5
        assert scale.rank_svm.value >= scale.mdr.value
    array = zarr.open_array(tmp_path / "run" / "rasters.zarr", mode="r")
    assert array.shape == (4 * 24, 16, 16, 3 * 2)
    assert np.isfinite(np.asarray(array)).all()


def test_stores_without_crops_or_with_few_are_told(tmp_path: Path) -> None:
    from tests.fit.fit_clips import make_store

    make_store(tmp_path / "none.store", clips=2, persons=2)
    with pytest.raises(CropsError, match="--crops|holds no crops"):
        fit_pixels(tmp_path / "none.store", tmp_path / "run", MdrConfig(**SMALL))
    path = drifting(tmp_path / "few.store", clips=2, crops=4)
    with pytest.raises(CropsError, match="no clip has 3 crops"):
        fit_pixels(path, tmp_path / "run", MdrConfig(**SMALL, group="clip"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [16, 21])
def test_raster_has_the_size_of_the_still_and_starts_as_it(size: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, size, size)
    assert torch.equal(UNet(4)(image), image)
    generator = PixelGenerator((2, 4), 4)
    torch.nn.init.normal_(generator.scales[0].last.weight)  # type: ignore[union-attr]
    rasters = generator.rasters(image)
    assert rasters.shape == (2, 6, size, size)
    flat = generator(image)
    assert flat.shape == (2, 2, 3 * size * size)
    unit = (3 * size * size) ** 0.5
    torch.testing.assert_close(flat[:, 0] * unit, rasters[:, :3].flatten(1))
    # S(d, V) is a mean over the pixels, whatever their number.
    score = (flat[:, 1] * generator.psi(image)).sum(dim=1)
    expected = (image - 0.5).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(score, expected)
