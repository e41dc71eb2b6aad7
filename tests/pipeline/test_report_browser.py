"""The report in a browser: it asks for nothing, answers, can be filtered, and read by all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from pipeline.report.page import SECTIONS, Options, write_report
from tests.testing.browser import Watched, running
from tests.testing.reports import SUBSETS, MadeRun


@pytest.fixture(scope="module")
def file(made: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_report(Options(made.run, videos=made.videos), page)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as started:
        yield started


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_everything_is_shown_and_can_be_read(
    file: Path, browser: Browser, width: int, scheme: str, tmp_path: Path
) -> None:
    seen = Watched(browser, file, width, scheme)
    for name, _ in SECTIONS:
        expect(seen.page.locator(f"section#{name} h2")).to_be_visible()
    for name in ("best", "worst", "matching", "mismatching"):
        assert seen.page.locator(f"#{name} .card").count() >= 8
        assert seen.page.locator(f"#{name} .won img").count() >= 8
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.page.screenshot(path=tmp_path / "page.png")
    ground = cv2.imread(str(tmp_path / "page.png"))[2, 2].mean()
    assert ground > 200 if scheme == "light" else ground < 60
    broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert seen.page.evaluate(broken) == 0
    seen.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    # All cards are made alike; contrasts are slow to compute.
    told = Axe().run(seen.page, {"exclude": [[".card:nth-child(n+2)"]]}, {}).response
    assert len(told["passes"]) > 15
    serious = [v for v in told["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert seen.page.title() == "2stcn: report of a run"
    assert seen.outside() == []
    assert seen.complaints == []
    seen.page.close()


def test_points_answer_to_pointer_and_keys(file: Path, browser: Browser) -> None:
    seen = Watched(browser, file)
    tip, plot = seen.page.locator("#tip"), seen.page.locator("#scatter .chart")
    point = plot.locator(".point").first
    point.scroll_into_view_if_needed()
    point.hover()
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("predicted")
    seen.page.mouse.move(5, 5)
    expect(tip).to_be_hidden()

    plot.focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "End"):
        plot.press(key)
        said.append(tip.text_content())
    assert len(set(said)) == 3
    plot.press("Home")
    assert tip.text_content() == said[0]
    plot.press("Escape")
    expect(tip).to_be_hidden()

    curve = seen.page.locator(".card .chart").first
    curve.scroll_into_view_if_needed()
    curve.hover()
    expect(tip).to_contain_text("attention")
    assert seen.complaints == []
    seen.page.close()


def test_clips_are_filtered_by_text_and_by_subset(file: Path, browser: Browser) -> None:
    seen = Watched(browser, file)
    page = seen.page
    count, cards = page.locator("#count"), page.locator("#best .card:visible")
    points, rows = page.locator("#scatter .chart .point:visible"), page.locator("#table .row")
    all_clips, all_cards = rows.count(), cards.count()
    name = str(page.locator("#best .card").first.get_attribute("data-clip"))
    page.get_by_role("searchbox").fill(name.upper())
    expect(count).to_have_text(f"1 of {all_clips} clips")
    assert cards.count() == points.count() == 1
    page.get_by_role("searchbox").fill("no clip is called so")
    expect(page.locator("#best .none")).to_be_visible()
    assert cards.count() == points.count() == 0
    page.get_by_role("searchbox").fill("")
    expect(count).to_have_text(f"{all_clips} clips")
    assert cards.count() == all_cards

    page.get_by_label("of subset").select_option(SUBSETS[0])
    kept = page.locator("#table .row:not(.gone)")
    assert 0 < kept.count() < all_clips
    assert points.count() == kept.count()
    assert {row.get_attribute("data-subset") for row in kept.all()} == {SUBSETS[0]}
    assert page.title() == "2stcn: report of a run"
    page.close()


def test_it_prints(file: Path, browser: Browser) -> None:
    seen = Watched(browser, file, scheme="dark")
    seen.page.emulate_media(media="print")
    expect(seen.page.locator("nav")).to_be_hidden()
    expect(seen.page.locator("#filters")).to_be_hidden()
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert seen.page.pdf().count(b"/Type /Page\n") >= 3
    seen.page.close()
