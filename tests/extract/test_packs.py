from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from insightface.app import FaceAnalysis
from insightface.utils import storage

from stages.extract import packs
from stages.extract.errors import FetchError, PackError
from tests.testing import packs as tiny
from tests.testing.packs import tiny_pack


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A whole tiny pack, to be copied."""
    return tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A machine on which no pack is installed."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FACEPIPE_HOME", str(tmp_path / "home" / "facepipe"))
    return tmp_path / "home"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def listed(folder: Path) -> dict[str, dict[str, str]]:
    """The ``files`` of a pack.json that fits a tiny pack."""
    names = {"detector": "det.onnx", "landmark": "lmk.onnx", "recognition": "rec.onnx"}
    return {r: {"file": f, "sha256": digest(folder / f)} for r, f in names.items()}


def write_manifest(folder: Path, **content: object) -> None:
    (folder / "pack.json").write_text(json.dumps(content))


def test_a_folder_is_a_pack(folder):
    pack = packs.resolve(folder)
    assert (pack.name, pack.folder) == ("tiny", folder)
    assert [p.name for p in (pack.detector, pack.landmark, pack.recognition)] == [
        "det.onnx",
        "lmk.onnx",
        "rec.onnx",
    ]
    assert pack.files["landmark"] == digest(folder / "lmk.onnx")
    assert (pack.licence, pack.refine) == ("unknown", None)
    assert packs.resolve(str(folder)) == pack
    assert packs.verify(str(folder)) == []
    assert packs.path(str(folder)) == folder


def test_roles_are_found_by_shape_among_insightface_own_files(tmp_path):
    pack = packs.resolve(tiny_pack(tmp_path / "copy", variant="buffalo"))
    assert pack.detector.name == "det_10g.onnx"
    assert pack.landmark.name == "1k3d68.onnx"
    assert pack.recognition.name == "w600k_r50.onnx"


def test_an_archive_with_a_folder_inside_is_a_pack_too(tmp_path):
    tiny_pack(tmp_path / "antelopev2" / "antelopev2")
    pack = packs.resolve(tmp_path / "antelopev2")
    assert pack.folder == tmp_path / "antelopev2" / "antelopev2"


def test_the_fingerprint_follows_the_files_and_not_their_place_or_names(folder, tmp_path):
    pack = packs.resolve(folder)
    other = shutil.copytree(folder, tmp_path / "moved")
    (other / "rec.onnx").rename(other / "another_name.onnx")
    assert packs.resolve(other).fingerprint == pack.fingerprint
    model = onnx.load(other / "lmk.onnx")
    model.doc_string = "changed"
    onnx.save(model, other / "lmk.onnx")
    assert packs.resolve(other).fingerprint != pack.fingerprint


def test_the_fingerprint_follows_the_sources_where_the_pack_was_converted(folder):
    files = listed(folder)
    for i, entry in enumerate(files.values()):
        entry["source"] = {"sha256": f"{i}" * 64}
    write_manifest(folder, converter=1, files=files)
    first = packs.resolve(folder).fingerprint
    # The same sources, serialised otherwise by another version of onnx.
    model = onnx.load(folder / "lmk.onnx")
    model.doc_string = "other bytes"
    onnx.save(model, folder / "lmk.onnx")
    files["landmark"]["sha256"] = digest(folder / "lmk.onnx")
    write_manifest(folder, converter=1, files=files)
    assert packs.resolve(folder).fingerprint == first
    write_manifest(folder, converter=2, files=files)
    assert packs.resolve(folder).fingerprint != first
    write_manifest(folder, converter=1, files={**files, "landmark": listed(folder)["landmark"]})
    assert packs.resolve(folder).fingerprint != first


def test_pack_json_names_the_pack_and_sets_the_second_landmark_pass(folder):
    plain = packs.resolve(folder).fingerprint
    write_manifest(
        folder,
        name="mine",
        licence="CC0",
        refine={"scale": 1.1, "shift": -0.1},
        detection={"threshold": 0.6, "sizes": [320]},
    )
    pack = packs.resolve(folder)
    assert (pack.name, pack.licence, pack.refine) == ("mine", "CC0", packs.Refine(1.1, -0.1))
    assert pack.detection == packs.Detection(0.6, (320,))
    assert pack.fingerprint != plain  # other landmarks from the same nets


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "pack.json: Invalid JSON"),
        ('{"format": 2}', "pack.json: format: Input should be 1"),
        ('{"refine": {"scale": 1}}', "pack.json: refine.shift"),
        ('{"files": {"detector": {"file": "det.onnx"}}}', "files.detector.sha256: Field required"),
    ],
)
def test_a_pack_json_that_cannot_be_read_is_named(folder, content, problem):
    (folder / "pack.json").write_text(content)
    with pytest.raises(PackError, match=problem):
        packs.resolve(folder)
    assert any(problem.removeprefix("pack.json: ") in p for p in packs.verify(str(folder)))


def test_files_that_differ_from_pack_json_are_refused_and_listed(folder):
    files = listed(folder)
    write_manifest(folder, files=files)
    shutil.copy(folder / "det.onnx", folder / "lmk.onnx")
    (folder / "rec.onnx").unlink()
    problems = packs.verify(str(folder))
    assert len(problems) == 2
    expected, found = files["landmark"]["sha256"], digest(folder / "det.onnx")
    assert problems[0].endswith(f"lmk.onnx: expected sha256 {expected}, found {found}")
    assert problems[1].endswith("rec.onnx: listed in pack.json, found no such file")
    with pytest.raises(PackError, match="lmk.onnx: expected sha256"):
        packs.resolve(folder)


def test_a_pack_without_landmarks_is_refused_by_what_it_lacks(folder):
    (folder / "lmk.onnx").unlink()
    onnx.save(tiny.pooled_net(192, 212), str(folder / "2d106det.onnx"))
    with pytest.raises(PackError) as error:
        packs.resolve(folder)
    assert "expected a 68-landmark net (192x192 input, 136 or 3309 outputs)" in str(error.value)
    assert "found only det.onnx (detector), rec.onnx (recognition)" in str(error.value)
    assert "lite" in error.value.hint


def test_an_empty_folder_is_no_pack(tmp_path):
    with pytest.raises(PackError, match="a detector .* and a 68-landmark net .* found only none"):
        packs.resolve(tmp_path)


def test_two_nets_of_one_role_are_refused(folder):
    shutil.copy(folder / "rec.onnx", folder / "rec2.onnx")
    with pytest.raises(PackError, match=r"one recognition net, found rec\.onnx and rec2\.onnx"):
        packs.resolve(folder)


@pytest.mark.parametrize(
    ("name", "net", "expected", "found"),
    [
        ("lmk.onnx", tiny.landmark_net(10), "136 or 3309", "192x192 input, 10 outputs"),
        ("rec.onnx", tiny.recognition_net(256), "512 outputs", "112x112 input, 256 outputs"),
        ("rec.onnx", tiny.pooled_net(128, 512), "112x112", "128x128 input, 512 outputs"),
    ],
)
def test_other_widths_name_the_file_what_was_expected_and_found(folder, name, net, expected, found):
    onnx.save(net, str(folder / name))
    with pytest.raises(PackError) as error:
        packs.resolve(folder)
    message = str(error.value)
    assert message.startswith(str(folder / name)) and expected in message and found in message
    assert packs.verify(str(folder)) == [message]


def test_a_width_that_the_graph_leaves_open_is_inferred(folder):
    model = tiny.recognition_net()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "width"
    onnx.save(model, str(folder / "rec.onnx"))
    assert packs.resolve(folder).recognition.name == "rec.onnx"


def test_a_detector_without_key_points_is_refused(folder):
    model = tiny.detector()
    del model.graph.output[6:]
    onnx.save(model, str(folder / "det.onnx"))
    with pytest.raises(PackError, match=r"det\.onnx: expected a detector .* found 6 outputs"):
        packs.resolve(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_named(folder, damage):
    file = folder / "rec.onnx"
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"<html>"}[damage])
    with pytest.raises(PackError, match=r"rec\.onnx: expected an ONNX model"):
        packs.resolve(folder)


def test_known_packs_come_with_licence_and_state(home):
    by_name = {info.name: info for info in packs.known()}
    assert list(by_name) == [
        "lite",
        "buffalo_l",
        "buffalo_m",
        "buffalo_s",
        "buffalo_sc",
        "antelopev2",
    ]
    assert not any(info.installed for info in by_name.values())
    assert "non-commercial" in by_name["antelopev2"].licence
    assert "MIT" in by_name["lite"].licence
    assert by_name["lite"].folder == home / "facepipe" / "packs" / "lite"
    tiny_pack(home / ".insightface" / "models" / "buffalo_l", variant="buffalo")
    assert [info.name for info in packs.known() if info.installed] == ["buffalo_l"]
    pack = packs.resolve("buffalo_l")
    assert pack.name == "buffalo_l" and "non-commercial" in pack.licence


def test_unknown_and_missing_packs_say_what_to_do(home):
    with pytest.raises(PackError, match="'buffalo_xl': neither a known pack .* nor a folder"):
        packs.resolve("buffalo_xl")
    with pytest.raises(PackError, match="lite is not installed") as error:
        packs.resolve("lite")
    assert error.value.hint == "install it: pipeline packs install lite"
    with pytest.raises(PackError, match="not one that can be installed"):
        packs.install(str(home))


def test_insightface_own_packs_are_fetched_by_it_with_the_licence_first(home, monkeypatch, capsys):
    asked = []

    def fetch(kind, name):
        asked.append((kind, name))
        print("download_path:", name)
        tiny_pack(home / ".insightface" / "models" / name, variant="buffalo")

    monkeypatch.setattr(storage, "ensure_available", fetch)
    lines: list[str] = []
    installed = packs.install("buffalo_l", lines.append)
    assert installed == home / ".insightface" / "models" / "buffalo_l"
    assert asked == [("models", "buffalo_l")]
    assert "non-commercial research" in lines[0] and "is installed at" in lines[1]
    assert capsys.readouterr().out == ""
    packs.install("buffalo_l", lines.append)
    assert len(asked) == 1 and "nothing to do" in lines[-1]


def test_a_failed_download_is_one_clear_error_and_leaves_no_half_pack(home, monkeypatch):
    def fetch(kind, name):
        half = home / ".insightface" / "models" / name
        half.mkdir(parents=True)
        (half / "det_10g.onnx").write_bytes(b"half")
        raise RuntimeError("Failed downloading\nmore lines")

    monkeypatch.setattr(storage, "ensure_available", fetch)
    with pytest.raises(FetchError) as error:
        packs.install("buffalo_l", lambda line: None)
    assert str(error.value).startswith("pack buffalo_l: insightface could not download it")
    assert str(error.value).endswith("RuntimeError: Failed downloading")
    assert "lite" in error.value.hint and "folder" in error.value.hint
    assert not (home / ".insightface" / "models" / "buffalo_l").exists()


def test_a_damaged_pack_of_insightface_is_not_deleted_but_named(home):
    folder = tiny_pack(home / ".insightface" / "models" / "buffalo_l", variant="buffalo")
    (folder / "w600k_r50.onnx").write_bytes(b"half")
    with pytest.raises(PackError, match=r"w600k_r50\.onnx: expected an ONNX model") as error:
        packs.install("buffalo_l", lambda line: None)
    assert "pipeline packs install buffalo_l" in error.value.hint
    assert (folder / "det_10g.onnx").is_file()


def test_a_folder_that_cannot_be_written_is_one_clear_error(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FACEPIPE_HOME", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="pack lite: cannot write .*file") as error:
        packs.install("lite", lambda line: None)
    assert "FACEPIPE_HOME" in error.value.hint


@pytest.mark.parametrize("variant", ["lite", "buffalo"])
def test_tiny_packs_load_in_insightface_and_box_bright_squares(tmp_path, variant):
    faces = FaceAnalysis(
        name=str(tiny_pack(tmp_path / "tiny", variant=variant)), providers=["CPUExecutionProvider"]
    )
    for side, x, y in [(40, 250, 30), (80, 37, 51), (120, 5, 100), (160, 100, 70)]:
        picture = np.full((240, 320, 3), 20, np.uint8)
        picture[y : y + side, x : x + side] = 230
        for size in ((640, 640), (320, 320)):
            faces.prepare(ctx_id=0, det_size=size)
            (face,) = faces.get(picture)
            assert np.abs(face.bbox - [x, y, x + side, y + side]).max() <= 4
            assert face.det_score >= 0.75
            points = face["landmark_2d_68" if variant == "lite" else "landmark_3d_68"][:, :2]
            assert points.shape == (68, 2)
            inside = (points - [x, y]) / side
            assert np.abs(inside - tiny.face_template()).max() < 0.1
            assert face.embedding.shape == (512,)
            eyes = face.kps[1] - face.kps[0]
            assert eyes[0] > 0.2 * side and abs(eyes[1]) < 0.1 * side


def test_the_tiny_detector_sees_each_of_two_squares_and_none_in_the_dark(whole):
    faces = FaceAnalysis(name=str(whole), providers=["CPUExecutionProvider"])
    faces.prepare(ctx_id=0, det_size=(320, 320))
    picture = np.zeros((240, 320, 3), np.uint8)
    assert faces.get(picture) == []
    picture[40:100, 20:80] = picture[120:200, 200:280] = 255
    assert sorted(round(float(f.bbox[0]) / 10) for f in faces.get(picture)) == [2, 20]
