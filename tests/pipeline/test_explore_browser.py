"""The page of `pipeline explore` in a browser: frames of any codec, with the store's faces."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

import store
from stages.extract.device import Device
from stages.extract.run import ExtractOptions, extract
from stages.extract.video import ClipReader
from tests.testing.av_clips import AV1, write_av
from tests.testing.browser import running
from tests.testing.clips import picture, write_video
from tests.testing.exploring import exploring
from tests.testing.reports import NAMES

BROKEN = "broken.mp4"
GAP = "gap.mp4"  # MPEG-4 part 2
TALL = f"deep/#1 100% ü {NAMES[0]}.mp4"  # AV1, higher than what is sent of it
FRAMES, WITHOUT = 14, range(6, 9)


@dataclass(frozen=True)
class Looked:
    """A store, the videos of it, and where it is served with and without them."""

    store: Path
    videos: Path
    address: str
    alone: str


@dataclass
class Seen:
    """A page, what it complained of, and what it asked of others than its server."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, small_pack: Path) -> Iterator[Looked]:
    home = tmp_path_factory.mktemp("looked")
    videos = home / "videos"
    (videos / "deep").mkdir(parents=True)
    drawn = [[] if i in WITHOUT else [(100.0 + 6 * i, 110.0, 80.0)] for i in range(FRAMES)]
    write_video(videos / GAP, [picture(squares) for squares in drawn])
    tall = [picture([(200.0, 300.0 + 9 * i, 220.0)], (400, 600)) for i in range(5)]
    write_av(videos / TALL, tall, codec=AV1)
    (videos / BROKEN).write_text("no video")
    extract(ExtractOptions([videos], home / "f.store", str(small_pack), Device.CPU, 1))
    with (
        exploring(home / "f.store", "--videos", str(videos)) as address,
        exploring(home / "f.store") as alone,
    ):
        yield Looked(home / "f.store", videos, address, alone)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as started:
        yield started


@contextmanager
def opened(browser: Browser, address: str, clip: str, width: int = 1280) -> Iterator[Seen]:
    """Open the page, choose a clip in the table, and see that nothing went wrong."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    seen = Seen(page)
    page.on("console", lambda m: seen.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else
            seen.outside.append(r.url))  # fmt: skip
    page.on("request", lambda r: seen.frames.append(r.url) if "/frame?" in r.url else None)
    try:
        page.goto(address)
        page.get_by_text(clip, exact=True).first.click()
        expect(page.locator("#told")).to_have_text(clip)
        expect(page.locator("#when")).to_contain_text("frame 0 ")
        yield seen
        assert page.title() == "facepipe explore"
        assert seen.outside == seen.complaints == []
    finally:
        page.close()


def drawn(page: Page, part: str) -> np.ndarray:
    """Return the points of a path that is drawn over the picture, (n, 2) float32."""
    path = str(page.locator(f"#face #{part}").get_attribute("d"))
    assert part != "points" or re.fullmatch(r"(M\S+ \S+h0)*", path)
    numbers = re.findall(r"-?\d[\d.]*", path.replace("h0", ""))
    return np.array(numbers, np.float32)


def shown(page: Page) -> np.ndarray:
    """Return the picture (h, w, 3) that is shown, BGR."""
    told = page.evaluate("document.getElementById('picture').toDataURL('image/png')")
    data = np.frombuffer(base64.b64decode(told.split(",")[1]), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


@pytest.mark.parametrize(("clip", "width"), [(GAP, 1280), (TALL, 390)])
def test_each_frame_with_the_face_of_its_row(
    looked: Looked, browser: Browser, clip: str, width: int
) -> None:
    rows = store.open(looked.store).clip(clip)
    with ClipReader(looked.videos / clip) as reader:
        frames = list(reader)
    assert [frame.timestamp for frame in frames] == rows["timestamp"].tolist()
    with opened(browser, looked.address, clip, width) as seen:
        page = seen.page
        for number, frame in enumerate(frames):
            expect(page.locator("#when")).to_contain_text(f"frame {number} of {len(frames)}, ")
            if rows["valid"][number]:
                assert drawn(page, "points").tolist() == rows["landmark"][number].tolist()
                x0, y0, x1, y1 = rows["box"][number].tolist()
                assert drawn(page, "box").tolist() == [x0, y0, x1, y1, x0]
                assert len(drawn(page, "lines")) == 136
            else:
                expect(page.locator("#when")).to_contain_text("no face")
                assert not any(len(drawn(page, part)) for part in ("points", "lines", "box"))
            h, w = frame.image.shape[:2]
            scale = min(1, 480 / h)
            expected = cv2.resize(frame.image, (round(w * scale), round(h * scale)))
            assert shown(page).shape == expected.shape
            off = [np.abs(shown(page) - np.float64(other)).mean() for other in
                   (expected, np.roll(expected, 6, (0, 1)))]  # fmt: skip
            assert off[0] < 3  # and elsewhere there is nothing in the picture that could be off
            assert off[0] < off[1] / 2 or not rows["valid"][number]
            cursors = page.evaluate(
                """["valid", "yaw", "mouth", "box"].map((name) =>
                    Bokeh.documents[0].get_model_by_name(`cursor-${name}`).location)"""
            )
            assert cursors == [rows["timestamp"][number]] * 4
            page.locator("#seek").press("ArrowRight")
        size = page.evaluate("document.getElementById('face').viewBox.baseVal.height")
        assert size == frames[0].image.shape[0]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    if clip == GAP:
        assert not rows["valid"][list(WITHOUT)].any() and rows["valid"][0] and rows["valid"][-1]


def test_it_plays_by_keyboard(looked: Looked, browser: Browser) -> None:
    with opened(browser, looked.address, GAP) as seen:
        page, when, play = seen.page, seen.page.locator("#when"), seen.page.locator("#play")
        page.evaluate("""() => {
          window.told = [];
          const when = document.getElementById("when");
          new MutationObserver(() => told.push(parseInt(when.textContent.slice(6))))
            .observe(when, { childList: true });
        }""")
        page.locator("body").evaluate("(body) => document.activeElement.blur()")
        page.keyboard.press("Space")
        expect(play).to_have_text("Pause")
        expect(when).to_contain_text(f"frame {FRAMES - 1}")
        expect(play).to_have_text("Play")
        told = page.evaluate("told")
        assert told == sorted(told) and len(set(told)) > 2

        page.locator("#seek").press("Home")
        expect(when).to_contain_text("frame 0 ")
        page.locator("#seek").press("PageDown")
        expect(when).to_contain_text("frame 10 ")
        page.locator("#seek").press("End")
        expect(when).to_contain_text(f"frame {FRAMES - 1} ")
        page.evaluate("explorer.seek(0.21)")
        expect(when).to_contain_text("frame 5 ")
        page.locator("#seek").fill("3")
        expect(when).to_contain_text("frame 3 ")
        play.press("Space")
        expect(play).to_have_text("Pause")
        play.press("Space")
        expect(play).to_have_text("Play")

        expect(page.locator("#face")).to_be_visible()
        page.get_by_label("face drawn").uncheck()
        expect(page.locator("#face")).to_be_hidden()


def test_without_videos_the_face_is_drawn_alone(looked: Looked, browser: Browser) -> None:
    with opened(browser, looked.alone, GAP) as seen:
        page = seen.page
        expect(page.locator("#why")).to_contain_text("--videos was not given")
        page.locator("#seek").press("ArrowRight")
        expect(page.locator("#when")).to_contain_text("frame 1 ")
        row = store.open(looked.store).clip(GAP)["landmark"][1]
        assert drawn(page, "points").tolist() == row.tolist()
        assert seen.frames == []
        address = f"{looked.alone}frame?clip={GAP}&frame=0"
        assert page.request.get(address).status == 404

        rows = page.locator(".slick-row")
        expect(rows).to_have_count(3)
        page.get_by_label("Name contains").fill("GA")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text(GAP)


def test_clips_are_filtered_by_status_and_it_answers_to_its_number(
    looked: Looked, browser: Browser
) -> None:
    """By its number, 127.0.0.1, the page comes to life only if Bokeh's websocket is let through."""
    with opened(browser, looked.alone.replace("localhost", "127.0.0.1"), GAP) as seen:
        rows = seen.page.locator(".slick-row")
        expect(rows).to_have_count(3)
        choose = "(wanted) => { Bokeh.documents[0].get_model_by_name('status').value = wanted; }"
        for wanted, shown_clips in ((["unreadable"], 1), (["ok"], 2), ([], 3)):
            seen.page.evaluate(choose, wanted)
            expect(rows).to_have_count(shown_clips)
            if wanted == ["unreadable"]:
                expect(rows).to_contain_text(BROKEN)
        # What is ours; the table, the map and the curves are Bokeh's.
        told = Axe().run(seen.page, "#player", {}).response
        assert len(told["passes"]) > 5
        assert [v for v in told["violations"] if v["impact"] in ("serious", "critical")] == []


def test_a_file_that_is_another_is_not_shown(
    looked: Looked, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / GAP).write_bytes((looked.videos / GAP).read_bytes() + b"\0")
    with (
        exploring(looked.store, "--videos", str(tmp_path)) as address,
        opened(browser, address, GAP) as seen,
    ):
        expect(seen.page.locator("#why")).to_contain_text("not the one that was extracted")
        assert len(drawn(seen.page, "points")) == 136
        seen.complaints.clear()  # Chromium notes the answer 404 itself
