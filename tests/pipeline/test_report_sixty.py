"""The report of 64 clips with pictures of real size, in a browser: small, quiet, whole, usable."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from pipeline.report.films import HEIGHT
from pipeline.report.page import SECTIONS, Options, write_report
from stages.extract.device import Device
from stages.extract.run import ExtractOptions, extract
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.run import fit
from tests.testing.browser import Watched, running
from tests.testing.clips import picture, write_video
from tests.testing.runs import QUICK

CLIPS, FRAMES = 64, 12
CEILING = 15e6  # bytes
SHOWN = 40  # ten in each of four lists


def filmed(folder: Path) -> Path:
    """Write clips of a bright square before a ground with a camera's noise, and labels.csv."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(CLIPS):
        ground = cv2.resize(rng.integers(0, 80, (60, 80, 3)).astype(np.float32), (320, 240))
        reach = float(rng.uniform(2, 30))
        pictures = []
        for x in 150 + reach * np.sin(np.arange(FRAMES)):
            drawn = picture([(x, 120, 110)], ground=0).astype(np.float32)
            noise = rng.normal(0, 8, drawn.shape)
            lit = np.where(drawn > 0, drawn, ground) + noise
            pictures.append(lit.clip(0, 255).astype(np.uint8))
        write_video(folder / f"{k:02d}.mp4", pictures)
        rows.append([f"{k:02d}.mp4", f"{reach:.2f}", f"p{k % 16}", "ab"[k % 2], "fm"[k % 4 // 2]])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["clip", "score", "person", "subset", "gender"], *rows])
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> Path:
    home = tmp_path_factory.mktemp("sixty")
    (home / "videos").mkdir()
    videos = filmed(home / "videos")
    extract(ExtractOptions([videos], home / "f.store", str(small_pack), Device.CPU, 2))
    config = apply_overrides(FitConfig(), [*QUICK, "split.test=0.5"])
    fit(home / "f.store", videos / "labels.csv", home / "run", config)
    write_report(Options(home / "run", videos=videos), home / "report.html")
    return home / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as started:
        yield started


def test_it_is_small_with_pictures_of_real_size(file: Path) -> None:
    text = file.read_text("utf-8")
    pictures = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", text)
    assert len(pictures) > 8 * SHOWN
    sizes = [len(base64.b64decode(data)) for data in pictures]
    assert np.median(sizes) > 4000  # as of a face before a room; a square on black has 1 kB
    one = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
    assert one is not None and one.shape[0] == HEIGHT
    assert file.stat().st_size < CEILING


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_is_whole_at_every_width(
    file: Path, browser: Browser, width: int, scheme: str, tmp_path: Path
) -> None:
    seen = Watched(browser, file, width, scheme)
    for name, _ in SECTIONS:
        expect(seen.page.locator(f"section#{name} h2")).to_be_visible()
    assert seen.page.locator(".card").count() == SHOWN
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("scatter", "best", "table"):
        seen.page.locator(f"#{name}").scroll_into_view_if_needed()
        seen.page.locator(f"#{name}").evaluate("e => e.scrollIntoView()")
        shot = tmp_path / f"{name}-{width}.png"
        seen.page.screenshot(path=shot)
        image = cv2.imread(str(shot))
        assert image is not None and image.shape == (900, width, 3)
        assert image.std() > 10 and shot.stat().st_size > 20_000, shot  # something is to be seen
    broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert seen.page.evaluate(broken) == 0
    assert seen.outside() == []
    assert seen.complaints == []
    seen.page.close()


def test_it_answers_and_can_be_filtered(file: Path, browser: Browser) -> None:
    seen = Watched(browser, file)
    page, tip = seen.page, seen.page.locator("#tip")
    # The point that is drawn last: none can lie over it.
    point, card = page.locator("#scatter .chart .point").last, page.locator("#worst .card .chart")
    for mark in (point, card.first):
        mark.scroll_into_view_if_needed()
        mark.hover()
        expect(tip).to_be_visible()
        page.mouse.move(5, 5)
        expect(tip).to_be_hidden()
    rows = page.locator("#table .row")
    page.get_by_label("of subset").select_option("a")
    kept = page.locator("#table .row:not(.gone)")
    assert 0 < kept.count() < rows.count()
    assert page.locator(".card:visible").count() < SHOWN
    name = str(kept.first.get_attribute("data-clip"))
    page.get_by_role("searchbox").fill(name)
    expect(page.locator("#count")).to_have_text(f"1 of {rows.count()} clips")
    assert seen.complaints == []
    page.close()


def test_all_of_it_is_accessible(file: Path, browser: Browser) -> None:
    """All 40 cards; but contrasts, which take a minute here, of one: they have the same colours."""
    seen = Watched(browser, file)
    seen.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    contrast = {"color-contrast": {"enabled": False}}
    told = Axe().run(seen.page, None, {"rules": contrast}).response
    assert len(told["passes"]) > 15
    assert [v for v in told["violations"] if v["impact"] in ("serious", "critical")] == []
    rest = {"exclude": [[".card:nth-child(n+2)"], [".row:nth-child(n+3)"]]}
    told = Axe().run(seen.page, rest, {"runOnly": ["color-contrast"]}).response
    assert len(told["passes"]) == 1
    assert told["violations"] == []
    seen.page.close()
