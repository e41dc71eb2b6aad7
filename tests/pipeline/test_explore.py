"""`pipeline explore`: what is served of a store, to this machine and of this store alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import cv2
import numpy as np
import pytest

from tests.testing.command import pipeline
from tests.testing.exploring import exploring
from tests.testing.reports import NAMES, MadeRun

HOSTILE = f"00 {NAMES[0]}.mp4"


@pytest.fixture(scope="module")
def address(made: MadeRun) -> Iterator[str]:
    """Where the store of a run is served with its videos, until the tests are done."""
    (made.videos / "secret.txt").write_text("secret")
    with exploring(made.store, "--videos", str(made.videos)) as served:
        yield served


def ask(address: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask for a path as it stands, which a client would tidy."""
    to = urlsplit(address)
    connection = http.client.HTTPConnection("127.0.0.1", to.port or 0, timeout=30)
    connection.request("GET", path, headers={"Host": to.netloc, **headers})
    answer = connection.getresponse()
    return answer, answer.read()


def get(address: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Ask for a path; its status and what came."""
    answer, body = ask(address, path, **headers)
    return answer.status, body


def test_the_page_and_the_data(address: str, made: MadeRun) -> None:
    status, page = get(address, "/")
    assert status == 200 and b"facepipe explore" in page and b'id="player"' in page
    status, data = get(address, "/clips.json")
    clips = json.loads(data)
    assert status == 200 and len(clips["clip"]) == 25 and HOSTILE in clips["clip"]
    status, data = get(address, f"/clips.json?clip={quote(HOSTILE)}")
    curves = json.loads(data)
    assert status == 200 and len(curves["time"]) == 10
    assert curves["valid"] == [1] * 10 and min(curves["box"]) > 10
    assert get(address, "/clips.json?clip=nobody")[0] == 404


def test_a_frame_is_a_picture_that_nobody_keeps(address: str) -> None:
    answer, body = ask(address, f"/frame?clip={quote(HOSTILE)}&frame=3")
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
    assert image is not None and image.shape == (240, 320, 3)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "query",
    ["clip=secret.txt&frame=0", "clip=../run/config.json&frame=0", "clip=/etc/passwd&frame=0",
     "clip=<b>broken.mp4&frame=0", f"clip={HOSTILE}&frame=10", f"clip={HOSTILE}&frame=-1",
     f"clip={HOSTILE}&frame=x"],
)  # fmt: skip
def test_nothing_but_frames_of_clips_is_served(address: str, query: str) -> None:
    status, body = get(address, f"/frame?{quote(query, safe='=&')}")
    assert status == 404 and b"secret" not in body and b"root:" not in body


def test_another_name_is_refused(address: str) -> None:
    for path in ("/clips.json", f"/frame?clip={quote(HOSTILE)}&frame=0"):
        assert get(address, path, Host="evil.example")[0] == 403


def test_a_port_that_is_taken_is_one_line(address: str, made: MadeRun) -> None:
    port = str(urlsplit(address).port)
    done = pipeline(made.run, "explore", str(made.store), "--port", port, code=2)
    assert f"port {port} cannot be listened on" in done.stderr
