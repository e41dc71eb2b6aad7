"""Progress: a bar on a terminal, a line now and then without one."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
import rich.console

from pipeline import console
from tests.pipeline.test_console import loud  # noqa: F401


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_begins_anew_with_the_second_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Screen()
    screen = rich.console.Console(file=seen, force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", lambda: screen)
    with console.epoch_progress(30) as epoch:
        for _ in range(20):
            epoch({"val_src": 0.5})
        for _ in range(7):
            epoch({"of": 9})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.getvalue())
    assert re.search(r"training again .* 7/9", text.splitlines()[-1] or text)


def test_without_a_terminal_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    console.err.cache_clear()

    def work() -> None:
        with console.fold_progress() as told:
            for done in range(1, 21):
                clock[0] += 10
                told("2stcn", done, 20)
            told("again", 1, 20)
            clock[0] += 40
            told("again", 2, 20)

    work()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 7
    assert said[0] == "2stcn: 3 of 20, 0:00:30 so far, 0:02:50 to go"
    assert said[-1] == "again: 2 of 20, 0:04:00 so far, 0:06:00 to go"
    with console.work_progress("copying") as share:  # over soon: nothing is said
        share(1, 2)
    console.be_quiet()
    work()
    assert capsys.readouterr().err == ""
    console.err.cache_clear()
