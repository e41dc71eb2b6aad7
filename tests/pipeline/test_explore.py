"""`pipeline explore`: a page that shows a store, to this machine and of this store alone."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import psutil
import pytest
from jsonschema import Draft202012Validator

from pipeline.schema_commands import schemas
from tests.testing.browser import running
from tests.testing.command import ENV, pipeline
from tests.testing.reports import NAMES, MadeRun

HOSTILE = f"00 {NAMES[0]}.mp4"


@pytest.fixture(scope="module")
def address(made: MadeRun) -> Iterator[str]:
    """Where a process serves the store, until the tests are done."""
    (made.videos / "secret.txt").write_text("secret")
    command = [sys.executable, "-m", "pipeline", "explore", str(made.store), "--port", "0",
               "--videos", str(made.videos), "--json"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        Draft202012Validator(schemas()["explore"]).validate(told)
        listening = [c for c in psutil.Process(process.pid).net_connections() if c.status ==
                     psutil.CONN_LISTEN]  # fmt: skip
        assert [c.laddr for c in listening] == [("127.0.0.1", urlsplit(told["address"]).port)]
        yield told["address"]
        process.terminate()


def get(address: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Ask for a path as it stands, which a client would tidy."""
    to = urlsplit(address)
    connection = http.client.HTTPConnection("127.0.0.1", to.port or 0, timeout=30)
    connection.request("GET", path, headers={"Host": to.netloc, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read()


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


def test_a_clip_comes_in_parts(address: str, made: MadeRun) -> None:
    path = f"/video/{quote(HOSTILE)}"
    assert get(address, path) == (200, (made.videos / HOSTILE).read_bytes())
    assert get(address, path, Range="bytes=0-9") == (206, (made.videos / HOSTILE).read_bytes()[:10])


@pytest.mark.parametrize(
    "path",
    ["/video/secret.txt", "/video/../run/config.json", "/video/..%2frun%2fconfig.json",
     "/video//etc/passwd", "/video/%2fetc%2fpasswd", "/video/..%2f..%2f..%2fetc%2fpasswd",
     "/video/"],
)  # fmt: skip
def test_nothing_but_clips_is_served(address: str, path: str) -> None:
    status, body = get(address, path)
    assert status in (403, 404) and b"secret" not in body and b"root:" not in body


def test_another_name_is_refused(address: str) -> None:
    for path in ("/clips.json", f"/video/{quote(HOSTILE)}"):
        assert get(address, path, Host="evil.example")[0] == 403


def test_in_a_browser(address: str) -> None:
    with running() as browser:
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        outside: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else
                outside.append(r.url))  # fmt: skip
        page.goto(address)
        page.get_by_text(HOSTILE, exact=True).first.click()
        page.wait_for_function("document.getElementById('player').src.includes('/video/')")
        page.wait_for_function("Bokeh.documents[0].get_model_by_name('curves-data').data.time"
                               ".length === 10")  # fmt: skip
        assert page.locator("#told").text_content().startswith(HOSTILE)  # type: ignore[union-attr]
        assert page.title() == "facepipe explore"
        assert not wrong and not outside


def test_a_port_that_is_taken_is_one_line(address: str, made: MadeRun) -> None:
    port = str(urlsplit(address).port)
    done = pipeline(made.run, "explore", str(made.store), "--port", port, code=2)
    assert f"port {port} cannot be listened on" in done.stderr
