"""`pipeline report`: the page as text. test_report_browser.py opens it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import insightface
import numpy as np
import pytest

import store
from pipeline.report.charts import chart, histogram, ticks
from pipeline.report.curves import clip_chart, winner
from pipeline.report.films import pixelate
from pipeline.report.page import SECTIONS, Options, ReportError, render, write_report
from stages.extract import packs
from stages.extract.device import Device
from stages.extract.run import ExtractOptions, extract
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.frames import ClipFrames
from stages.fit.run import fit
from store.errors import FacepipeError
from tests.fit.crop_clips import make_pictures
from tests.store import store_clips
from tests.testing.command import pipeline
from tests.testing.reports import NAMES, SUBSETS, MadeRun
from tests.testing.runs import QUICK


class Elements(HTMLParser):
    """What a browser would make elements of, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def images(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    decoded = [np.frombuffer(base64.b64decode(data), np.uint8) for data in found]
    return [np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)) for data in decoded]


def test_hostile_names_are_text(made: MadeRun) -> None:
    page = Elements(render(Options(made.run, videos=made.videos)))
    assert len(page.of("script")) == 1
    assert all(str(i["src"]).startswith("data:image/jpeg;base64,") for i in page.of("img"))
    handlers = [k for _, attributes in page.found for k in attributes if k.startswith("on")]
    assert handlers == []
    assert not any("autofocus" in attributes for _, attributes in page.found)
    shown = {str(a["data-clip"]) for _, a in page.found if "data-clip" in a}
    assert len(shown) >= 8
    kinds = {name for name in NAMES for clip in shown if name in clip}
    assert {NAMES[0], NAMES[1], NAMES[3]} & kinds
    for clip in shown:
        assert clip in page.text
    assert {s["data-subset"] for _, s in page.found if "data-subset" in s} == set(SUBSETS)


def test_the_page_asks_for_nothing(made: MadeRun) -> None:
    text = render(Options(made.run, videos=made.videos))
    page = Elements(text)
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert page.of("link") == []
    for _, attributes in page.found:
        for name in ("href", "src", "action", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:image/jpeg"))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {name for name, _ in SECTIONS} <= set(ids)


def test_faces_are_shown_only_when_asked_for(made: MadeRun) -> None:
    assert images(render(Options(made.run))) == []
    shown = images(render(Options(made.run, videos=made.videos)))
    blurred = images(render(Options(made.run, videos=made.videos, blur=True)))
    assert len(shown) == len(blurred) > 40

    def detail(image: np.ndarray) -> float:
        """Deviation from the same picture with 14 squares across."""
        coarse = pixelate(image, 0)
        again = cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return float(np.abs(image.astype(float) - again).mean())

    assert np.mean([detail(i) for i in blurred]) < 0.3 * np.mean([detail(i) for i in shown])


def test_a_pixelated_face_is_no_longer_found(lite_pack: packs.Pack, tmp_path: Path) -> None:
    source = Path(insightface.__file__).parent / "data/images/Tom_Hanks_54745.png"
    image = np.asarray(cv2.imread(str(source)))
    h, w = image.shape[:2]
    cv2.imwrite(str(tmp_path / "clear.png"), image)
    small = pixelate(image, 0.6 * w)
    assert max(small.shape) <= 14
    for name, how in (("blocks", cv2.INTER_NEAREST), ("smooth", cv2.INTER_CUBIC)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.resize(small, (w, h), interpolation=how))
    extract(ExtractOptions([tmp_path], tmp_path / "x.store", str(lite_pack.folder), Device.CPU, 1))
    found = {r.clip: str(r.status) for r in store.open(tmp_path / "x.store").records()}
    assert found == {"clear.png": "ok", "blocks.png": "no_face", "smooth.png": "no_face"}


def test_without_the_store_the_page_says_so(made: MadeRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    noted = json.loads((run / "provenance.json").read_text())
    noted["store_path"] = str(tmp_path / "moved.store")
    (run / "provenance.json").write_text(json.dumps(noted))
    page = Elements(render(Options(run)))
    assert "give it with --store" in page.text
    assert "predicted" in page.text
    with pytest.raises(ReportError, match="there is no store"):
        render(Options(run, videos=made.videos))
    with pytest.raises(FacepipeError, match=r"moved\.store"):
        render(Options(run, [str(tmp_path / "moved.store")]))
    assert "There is no store" not in Elements(render(Options(run, [str(made.store)]))).text


def test_a_store_of_other_clips_is_refused(made: MadeRun, tmp_path: Path) -> None:
    other = tmp_path / "other.store"
    with store.Writer(other, store.open(made.store).provenance) as writer:
        rows = store_clips.rows(5)
        writer.append(store_clips.record("other.mp4", rows), rows)
    with pytest.raises(ReportError, match=r"other\.store: holds none of the \d+ held-out clips"):
        render(Options(made.run, [str(other)]))


def test_another_file_of_the_same_name_is_not_shown(made: MadeRun, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(made.videos, videos)
    for path in videos.glob("*.mp4"):
        path.write_bytes(path.read_bytes() + b"\0")
    text = render(Options(made.run, videos=videos))
    assert images(text) == []
    assert "is not the one that was extracted" in text
    for path in videos.glob("*.mp4"):
        path.rename(path.with_name("other " + path.name))
    said: list[str] = []
    text = render(Options(made.run, videos=videos), warn=said.append)
    assert "holds no file of this name" in text
    assert re.fullmatch(r"0 of \d+ clips found below .*; give the folder .*", "".join(said))
    render(Options(made.run, videos=made.videos), warn=said.append)
    assert len(said) == 1


def test_what_the_page_says_of_errors_and_data(made: MadeRun) -> None:
    text = Elements(render(Options(made.run))).text
    assert "mean error" in text and "gender" in text
    assert "f − m" in text
    assert "no frame could be decoded" in text and "<b>broken.mp4" in text
    assert "240 frames, 0 of them without a face" in text


def test_a_pooled_model_has_figures_and_neither_epochs_nor_frames(
    made: MadeRun, tmp_path: Path
) -> None:
    config = apply_overrides(FitConfig(model="meanpool"), ["bootstrap=100", "split.test=0.5"])
    fit(made.store, made.videos / "labels.csv", tmp_path / "run", config)
    page = Elements(render(Options(tmp_path / "run", videos=made.videos)))
    assert "The model is not trained in epochs." in page.text
    assert "The model says nothing of single frames" in page.text
    assert "alpha" in page.text and not page.of("img")
    assert "The store holds no face of this clip" not in page.text


def test_a_model_of_crops_has_figures_and_no_frames(tmp_path: Path) -> None:
    asked = [*QUICK[:2], "bootstrap=100", "refit=false", "model.size=64", "split.test=0.5"]
    config = apply_overrides(FitConfig(model="hmtnet"), [*asked, "model.backbone=mobilenet"])
    fit(*make_pictures(tmp_path), tmp_path / "run", config)
    page = Elements(render(Options(tmp_path / "run")))
    assert {name for name, _ in SECTIONS} <= {a.get("id") for _, a in page.found}
    told = json.loads((tmp_path / "run/metrics.json").read_text())
    assert "hmtnet" in page.text and f"{told['test']['src']:.3f} [" in page.text


def test_relative_targets_are_what_the_page_calls_true(made: MadeRun, tmp_path: Path) -> None:
    config = apply_overrides(FitConfig(), [*QUICK, "epochs=1", "refit=false", "normalise=zscore"])
    fit(made.store, made.videos / "labels.csv", tmp_path / "run", config)
    page = Elements(render(Options(tmp_path / "run")))
    assert "Against the scores as they are" in page.text
    assert "the score relative to its subset (zscore)" in page.text
    told = json.loads((tmp_path / "run/metrics.json").read_text())
    for metrics in (told["test"], told["raw_score"]["test"]):
        assert f"{metrics['src']:.3f} [" in page.text
    assert f"{told['test']['mae']:.3f} [" in page.text


def test_the_command_writes_the_page_whole_or_not_at_all(made: MadeRun, tmp_path: Path) -> None:
    asked = ("report", "--run", str(made.run), "--videos", str(made.videos), "--blur")
    told = json.loads(pipeline(tmp_path, *asked, "--out", "r.html", "--json").stdout)
    assert told["report"] == "r.html"
    assert told["bytes"] == (tmp_path / "r.html").stat().st_size < 2_000_000
    with pytest.raises(ReportError, match="no does not exist"):
        write_report(Options(made.run), tmp_path / "no/r.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(Options(made.run), tmp_path / "taken")
    assert {p.name for p in tmp_path.iterdir()} == {"r.html", "taken"}


def test_what_attention_goes_with_is_told(made: MadeRun) -> None:
    text = Elements(render(Options(made.run))).text
    assert "Attention against yaw" in text and "Attention against mouth opening" in text
    assert "|yaw|" in text and "The slides' claim" in text


def test_the_frame_that_won_has_the_largest_part() -> None:
    score, nothing = np.array([0.1, 0.9, np.nan, 0.5]), np.full(4, np.nan)
    frames = ClipFrames("a", np.arange(4.0), np.ones(4, bool), nothing, score, np.eye(4)[3])
    assert winner(frames) == 3
    even = np.array([1, 1, 0, 1]) / 3
    assert winner(replace(frames, won=even)) == 1
    assert winner(replace(frames, won=nothing)) == 1
    drawn = clip_chart(frames, "t", [0.0, 3.0])
    assert drawn.second is None
    assert [tip[2].endswith("won") for tip in drawn.tips] == [False, False, True]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.13, 0.21, 3) == pytest.approx([-0.0, 0.2])
    assert ticks(995, 1005, 2) == [995, 1000, 1005]


def test_lines_break_where_there_is_no_value() -> None:
    made = chart("t", (0, 4), (0, 1), "x", "y")
    made.line([0, 1, 2, 3, 4], [0, 1, float("nan"), 1, 0], "c0")
    assert made.marks[0].path.count("M") == 2
    assert made.marks[0].path.count("L") == 2


def test_a_histogram_counts_every_value_once() -> None:
    made = histogram("h", [("a", [1.0, 1.0, 2.0, float("nan")]), ("b", [])], "x", bins=2)
    assert made is not None
    assert [tip[2].split(": ")[1] for tip in made.tips] == ["a 67 %", "a 33 %"]
    assert histogram("h", [("a", [])], "x") is None
