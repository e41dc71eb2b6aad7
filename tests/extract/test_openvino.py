"""Nets on OpenVINO give what they give on ONNX Runtime. Needs the openvino extra (in dev)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest

import store
from stages.extract import openvino_session, packs, selftest
from stages.extract.device import Device, DeviceError, Precision
from stages.extract.nets import open_recognition
from stages.extract.openvino_session import OpenVinoSession
from stages.extract.packs import resolve
from stages.extract.run import ExtractOptions, extract
from stages.extract.selftest import check_precision, pseudo_faces
from stages.extract.sessions import open_session, resolve_device
from tests.testing.clips import moving_square
from tests.testing.packs import pooled_net, tiny_pack

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("variant", ["lite", "buffalo"])
def test_the_three_nets_give_what_onnxruntime_gives(variant: str, tmp_path: Path) -> None:
    pack = resolve(tiny_pack(tmp_path / "p", variant=variant))
    shapes = {"detector": (1, 3, 64, 96), "landmark": (4, 3, 192, 192),
              "recognition": (4, 3, 112, 112)}  # fmt: skip
    for role, shape in shapes.items():
        path = getattr(pack, role)
        ours, theirs = open_session(path, Device.OPENVINO), open_session(path, Device.CPU)
        assert ours.get_providers() == ["OpenVINO CPU"]
        assert [p.name for p in ours.get_inputs()] == [p.name for p in theirs.get_inputs()]
        assert [p.name for p in ours.get_outputs()] == [p.name for p in theirs.get_outputs()]
        sizes = [s if isinstance(s, int) else None for s in theirs.get_inputs()[0].shape]
        assert ours.get_inputs()[0].shape == sizes
        feed = {theirs.get_inputs()[0].name: noise(*shape)}
        for a, b in zip(ours.run(None, feed), theirs.run(None, feed), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4, err_msg=role)


def test_outputs_are_those_asked_for_and_stay_what_they_are(tmp_path: Path) -> None:
    pack = resolve(tiny_pack(tmp_path / "p"))
    session = OpenVinoSession(pack.detector)
    names = [port.name for port in session.get_outputs()]
    everything = session.run(None, {"input": noise(1, 3, 64, 64)})
    kept = [output.copy() for output in everything]
    last, first = session.run([names[-1], names[0]], {"input": noise(1, 3, 64, 64)})
    np.testing.assert_array_equal(last, everything[-1])
    np.testing.assert_array_equal(first, everything[0])
    session.run(None, {"input": np.ones((1, 3, 64, 64), np.float32)})
    for before, now in zip(kept, everything, strict=True):
        np.testing.assert_array_equal(before, now)


def test_a_view_with_gaps_is_read_right() -> None:
    model = pooled_net(8, 5).SerializeToString()
    blob = noise(2, 8, 8, 3).transpose(0, 3, 1, 2)
    session = OpenVinoSession(model)
    (a,), (b,) = session.run(None, {"input": blob}), session.run(None, {"input": blob.copy("C")})
    np.testing.assert_array_equal(a, b)
    (c,) = open_session(model, Device.CPU).run(None, {"input": blob.copy("C")})
    np.testing.assert_allclose(a, c, atol=1e-6)


def test_few_shapes_are_kept_and_forgotten_ones_come_back_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino_session, "SHAPES_KEPT", 2)
    session = OpenVinoSession(pooled_net(8, 5).SerializeToString())
    blob = noise(4, 3, 8, 8)
    first = {n: session.run(None, {"input": blob[:n]})[0] for n in (1, 2, 3, 4)}
    assert len(session._requests) == 2
    for n, before in first.items():
        np.testing.assert_array_equal(session.run(None, {"input": blob[:n]})[0], before)


def test_a_net_of_large_weights_is_compiled_once_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, blob = pooled_net(8, 5).SerializeToString(), noise(4, 3, 8, 8)
    each = OpenVinoSession(model)
    monkeypatch.setattr(openvino_session, "STATIC_BELOW_BYTES", 0)
    once = OpenVinoSession(model)
    for n in (1, 2, 4):
        a, b = (s.run(None, {"input": blob[:n]})[0] for s in (each, once))
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert (len(each._requests), len(once._requests)) == (3, 1)


def test_lites_vectors_agree_and_do_not_depend_on_the_batch(lite_pack: packs.Pack) -> None:
    faces = pseudo_faces()
    exact = open_recognition(lite_pack, Device.CPU)(faces)
    net = open_recognition(lite_pack, Device.OPENVINO)
    whole, single = net(faces), [net([face]) for face in faces]
    for i, (ours, theirs) in enumerate(zip(whole, exact, strict=True)):
        cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1)
        assert (cosine / np.linalg.norm(theirs, axis=1)).min() > 0.999999
        np.testing.assert_array_equal(np.concatenate([s[i] for s in single]), ours)


def test_a_store_may_be_continued_on_openvino_and_bf16_may_not(tmp_path: Path) -> None:
    pack = tiny_pack(tmp_path / "pack")
    (tmp_path / "videos").mkdir()
    clip = moving_square(tmp_path / "videos/a.mp4", frames=6)
    options = ExtractOptions([clip.parent], tmp_path / "s.store", str(pack), Device.CPU, 1)
    extract(options)
    moving_square(clip.with_name("b.mp4"), frames=6)
    summary = extract(replace(options, device=Device.OPENVINO))
    assert (summary.provider, dict(summary.statuses)) == ("OpenVINO CPU", {"ok": 1})
    opened = store.open(options.store)
    a, b = (opened.clip(name) for name in ("a.mp4", "b.mp4"))
    np.testing.assert_allclose(a["embedding"][:], b["embedding"][:], atol=1e-2)
    assert opened.provenance["recipe"]["precision"] == "f32"
    bf16 = replace(options, device=Device.OPENVINO, precision=Precision.BF16, overwrite=True)
    if HAS_BF16:
        with pytest.raises(store.StoreMismatchError, match="precision=f32.*precision=bf16"):
            extract(bf16)
        with_bf16 = replace(bf16, store=tmp_path / "bf16.store")
        assert "bf16: median cosine to f32 0.999" in extract(with_bf16).device_reason
        assert store.open(with_bf16.store).provenance["recipe"]["precision"] == "bf16"
        # Without --precision a store goes on as it was made.
        again = extract(replace(with_bf16, precision=None))
        assert "bf16" in again.device_reason
    else:
        with pytest.raises(DeviceError, match="does not compute in bfloat16"):
            extract(bf16)


def test_bf16_passes_the_self_test_where_the_cpu_has_it(lite_pack: packs.Pack) -> None:
    assert check_precision(lite_pack, Device.OPENVINO, Precision.F32) > 0.999999
    if HAS_BF16:
        assert 0.999 <= check_precision(lite_pack, Device.OPENVINO, Precision.BF16) < 0.999999
    else:
        with pytest.raises(DeviceError, match="does not compute in bfloat16"):
            check_precision(lite_pack, Device.OPENVINO, Precision.BF16)


@pytest.mark.parametrize("scale, figure", [(0.1, "0.99"), (float("nan"), "nan")])
def test_a_precision_that_is_too_rough_is_refused_with_its_figure(
    scale: float, figure: str, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open_recognition

    def rough(pack: packs.Pack, device: Device, *args: Any) -> Any:
        net = real(pack, Device.CPU)
        if device is Device.CPU:
            return net
        rng = np.random.default_rng(0)
        return lambda faces: tuple(
            v + scale * v.std() * rng.normal(size=v.shape) for v in net(faces)
        )

    monkeypatch.setattr(selftest, "open_recognition", rough)
    with pytest.raises(DeviceError, match=f"median cosine of {figure}") as caught:
        check_precision(resolve(small_pack), Device.OPENVINO, Precision.BF16)
    assert "f32" in caught.value.hint


def test_drawn_faces_are_the_same_each_time_and_differ() -> None:
    faces = pseudo_faces(3)
    np.testing.assert_array_equal(np.stack(faces), np.stack(pseudo_faces(3)))
    assert all(face.shape == (112, 112, 3) and face.std() > 20 for face in faces)
    assert np.abs(faces[0].astype(int) - faces[1]).mean() > 10


def test_without_the_package_the_error_names_it(
    small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = resolve(small_pack).landmark
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError, match="the package openvino does not load"):
        resolve_device(Device.OPENVINO, probe)
    monkeypatch.setattr(openvino_session, "installed", lambda names: {})
    with pytest.raises(DeviceError, match="the package openvino is not installed") as caught:
        resolve_device(Device.OPENVINO, probe)
    assert "facepipe[openvino]" in caught.value.hint
    assert caught.value.exit_code == 2


def test_an_old_openvino_is_refused(small_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_session, "installed", lambda names: {"openvino": "2023.3.0"})
    with pytest.raises(DeviceError, match="expected openvino 2025 or newer, found 2023.3.0"):
        open_session(resolve(small_pack).landmark, Device.OPENVINO)


def test_a_cpu_without_bf16_and_integers_are_refused() -> None:
    old = SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8"])
    with pytest.raises(DeviceError, match="does not compute in bfloat16 .*FP32, INT8"):
        openvino_session._type(old, Precision.BF16)
    with pytest.raises(DeviceError, match="--precision int8: .* calibrating") as caught:
        openvino_session._type(old, Precision.INT8)
    assert "f32, bf16" in caught.value.hint


def test_another_precision_than_the_one_asked_for_is_an_error() -> None:
    """As OpenVINO does on CPUs without bf16: it computes in f32 and says nothing."""
    session = OpenVinoSession(pooled_net(8, 5).SerializeToString())
    core, session._type = session._core, "bf16"

    def compile_model(model: Any, device: str, settings: dict[str, Any]) -> Any:
        return core.compile_model(model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    session._core = SimpleNamespace(compile_model=compile_model)
    with pytest.raises(DeviceError, match="in bf16, it took f32"):
        session.run(None, {"input": noise(1, 3, 8, 8)})


def test_a_file_that_openvino_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(DeviceError, match=r"could not read .*no\.onnx") as caught:
        open_session(path, Device.OPENVINO)
    assert "--device cpu" in caught.value.hint


def test_a_shape_that_the_net_cannot_have_is_an_error() -> None:
    session = OpenVinoSession(pooled_net(8, 5).SerializeToString())
    with pytest.raises(DeviceError, match="could not compile"):
        session.run(None, {"input": noise(1, 4, 8, 8)})
