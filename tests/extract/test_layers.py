from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import store
from stages.extract import layer_run, packs
from stages.extract.device import Device
from stages.extract.errors import PackError
from stages.extract.layer_run import LayerError, add_layer
from stages.extract.layers import LayerNet, LayerOptions, Pool, pooled, tensors
from stages.extract.run import ExtractOptions, extract
from tests.testing.clips import moving_square


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> Path:
    """Two clips and their store, in one folder."""
    home = tmp_path_factory.mktemp("layers")
    (home / "videos").mkdir()
    moving_square(home / "videos" / "a.mp4", frames=9)
    moving_square(home / "videos" / "b.mp4", frames=20, start=(120, 100, 70))
    extract(
        ExtractOptions([home / "videos"], home / "f.store", str(small_pack), Device.CPU, 1, crops=3)
    )
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def add(home: Path, pack: Path, options: LayerOptions, **more: object) -> np.ndarray:
    given = {"pack": str(pack), "device": Device.CPU, "workers": 1, **more}
    summary = add_layer(home / "f.store", [home / "videos"], options, **given)  # type: ignore[arg-type]
    return np.asarray(store.open(home / "f.store").dask(summary.name))


def test_every_tensor_of_the_net_is_listed_with_its_shape(small_pack: Path) -> None:
    found = {t.name: t.shape for t in tensors(packs.resolve(small_pack))}
    assert found["map"] == (512, 2, 2) and found["embedding"] == (512,) and "f1" in found


def test_the_last_layer_again_is_the_stored_embedding(home: Path, small_pack: Path) -> None:
    found = add(home, small_pack, LayerOptions("embedding"))
    stored = np.asarray(store.open(home / "f.store").dask("embedding"))
    np.testing.assert_array_equal(found, stored)
    assert store.verify(home / "f.store").ok


def test_the_mean_of_the_map_is_the_appearance(home: Path, small_pack: Path) -> None:
    found = add(home, small_pack, LayerOptions("map", Pool.MEAN))
    stored = np.asarray(store.open(home / "f.store").dask("appearance"))
    np.testing.assert_allclose(found, stored, atol=2e-3, rtol=2e-3)


def test_processes_give_the_same_rows_and_grown_stores_only_the_new(
    home: Path, small_pack: Path
) -> None:
    options = LayerOptions("map", Pool.FLATTEN, flip=True)
    one = add(home, small_pack, options, name="one")
    assert one.shape[1] == 2048
    np.testing.assert_array_equal(add(home, small_pack, options, name="two", workers=2), one)
    moving_square(home / "videos" / "c.mp4", frames=5)
    extract(ExtractOptions([home / "videos"], home / "f.store", str(small_pack), Device.CPU, 1))
    with pytest.raises(store.StoreError, match="29 of the store's 34 rows"):
        store.open(home / "f.store").dask("one")
    (home / "videos" / "a.mp4").unlink()  # not read again
    longer = add(home, small_pack, options, name="one")
    np.testing.assert_array_equal(longer[:29], one)
    assert np.isfinite(longer).all() and len(longer) == 34


def die(task: object) -> None:
    os._exit(9)  # as if the system had killed it


def test_a_killed_process_is_told_in_a_line(
    home: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_run, "_work", die)
    with pytest.raises(LayerError, match="a process that computed features was killed"):
        add(home, small_pack, LayerOptions("map", Pool.MEAN), workers=2)
    monkeypatch.undo()
    assert np.isfinite(add(home, small_pack, LayerOptions("map", Pool.MEAN))).all()


def test_crops_serve_where_the_videos_are_gone(home: Path, small_pack: Path) -> None:
    whole = add(home, small_pack, LayerOptions("map", Pool.MEANSD))
    shutil.rmtree(home / "videos")
    some = add(home, small_pack, LayerOptions("map", Pool.MEANSD, crops=True))
    shown = np.isfinite(some[:, 0])
    assert shown.sum() == 6
    a, b = some[shown].astype(float), whole[shown].astype(float)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_a_mirrored_face_has_the_same_flipped_features(small_pack: Path) -> None:
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    pack = packs.resolve(small_pack)
    for pool in (Pool.MEAN, Pool.MEANSD):
        net = LayerNet(pack, LayerOptions("map", pool, flip=True), Device.CPU)
        _, features = net([face, np.ascontiguousarray(face[:, ::-1])])
        np.testing.assert_allclose(features[0], features[1], rtol=1e-4, atol=1e-5)
        _, plain = LayerNet(pack, LayerOptions("map", pool), Device.CPU)([face])
        assert np.abs(plain[0] - features[0]).max() > 1e-3


def test_pooling_by_hand() -> None:
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    assert pooled(x, Pool.MEAN).tolist() == [[4, 13]]
    np.testing.assert_allclose(pooled(x, Pool.MEANSD)[0, 2:], np.arange(9).std(), rtol=1e-6)
    # Halves of an odd side share its middle line.
    assert pooled(x, Pool.PYRAMID)[0].tolist() == [4, 13, 2, 11, 3, 12, 5, 14, 6, 15]
    assert pooled(x, Pool.FLATTEN)[0].tolist() == list(range(18))
    assert pooled(x.reshape(1, 18), Pool.MEAN).shape == (1, 18)


def test_other_videos_are_refused(home: Path, small_pack: Path) -> None:
    options = LayerOptions("map")
    moving_square(home / "videos" / "b.mp4", frames=21, start=(120, 100, 70))
    with pytest.raises(LayerError, match=r"21 frames, 20 in the store"):
        add(home, small_pack, options)
    moving_square(home / "videos" / "b.mp4", frames=20, start=(60, 60, 40), step=(5, 3))
    with pytest.raises(LayerError, match="are not those that the store holds as 'b.mp4'"):
        add(home, small_pack, options)
    (home / "videos" / "b.mp4").unlink()
    with pytest.raises(LayerError, match="'b.mp4' of .* is not among the videos"):
        add(home, small_pack, options)
    with pytest.raises(PackError, match="no tensor 'maps'"):
        add(home, small_pack, LayerOptions("maps"))
    with pytest.raises(PackError, match="which is a folder somewhere"):
        layer_run.pack_of({"name": "mine", "fingerprint": "0"}, None)


def test_names_are_safe_and_options_survive_the_store(small_pack: Path) -> None:
    options = LayerOptions("/body/Conv:0", Pool.PYRAMID, flip=True, crops=True)
    assert options.name == "body-Conv-0.pyramid.flip.crops"
    assert LayerOptions.of(options.provenance(packs.resolve(small_pack))) == options
