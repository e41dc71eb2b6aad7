import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import store
from store.layout import Paths
from store.lock import Holder, holder
from tests.store import store_clips as clips

HERE = Path(__file__).parent


def start(path, first):
    return subprocess.Popen(
        [sys.executable, HERE / "store_victim.py", path, str(first)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])},
    )


def read_until(process, count):
    """Return what the victim said it had appended, after ``count`` clips more."""
    lines = [process.stdout.readline().strip() for _ in range(count + 1)]
    assert lines[0] == "open"
    return lines[1:]


def test_killed_in_the_midst_of_appending_nothing_that_was_finished_is_lost(tmp_path):
    path, first, said = tmp_path / "a.store", 0, []
    for count in (5, 23, 14):
        victim = start(path, first)
        try:
            lines = read_until(victim, count)
        finally:
            victim.send_signal(signal.SIGKILL)
        rest, _ = victim.communicate()
        said += lines + [line for line in rest.splitlines() if line.isdigit()]
        first = int(said[-1]) + 2  # the one after the last may have made it too
        assert store.verify(path).problems == []
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        done = {r.clip for r in w.records()}
    assert set(said) <= done
    assert len(done - set(said)) <= 3  # at most the clip in flight at each kill
    s = store.open(path)
    for clip in done:
        expected = clips.stored(clips.rows(1 + int(clip) % 7, seed=int(clip)))
        assert clips.same(s.clip(clip), expected)
    assert s.n_rows == sum(r.frames for r in s.records())
    report = store.verify(path)
    assert (report.problems, report.notes) == ([], [])


def test_a_second_writer_is_told_who_holds_the_lock_and_takes_over_from_the_dead(tmp_path):
    path = tmp_path / "a.store"
    victim = start(path, 0)
    try:
        read_until(victim, 1)
        with pytest.raises(store.StoreLockedError) as caught:
            store.Writer(path, clips.PROVENANCE)
        assert re.search(
            rf"process {victim.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\d ",
            str(caught.value),
        )
        assert any(f"process {victim.pid}" in note for note in store.verify(path).notes)
        victim.send_signal(signal.SIGSTOP)  # alive, and holding on
        with pytest.raises(store.StoreLockedError, match=f"process {victim.pid}"):
            store.Writer(path, clips.PROVENANCE)
    finally:
        victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert json.loads((path / "writer.json").read_text())["pid"] == victim.pid
    assert not any("being written" in note for note in store.verify(path).notes)
    with store.Writer(path, clips.PROVENANCE) as w:
        assert next(w.records()).clip == "0"
        assert holder(Paths(path)).pid == os.getpid()
    assert holder(Paths(path)) is None


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    first = store.Writer(tmp_path / "a.store", clips.PROVENANCE)
    with pytest.raises(store.StoreLockedError, match=f"process {os.getpid()}"):
        store.Writer(tmp_path / "a.store", clips.PROVENANCE)
    first.close()
    store.Writer(tmp_path / "a.store", clips.PROVENANCE).close()
    assert holder(Paths(tmp_path / "a.store")) is None


def test_a_holder_on_another_machine_counts_as_alive():
    assert Holder("elsewhere.example", 1, "").alive()
    assert Holder(socket.gethostname(), os.getpid(), "").alive()


@pytest.mark.parametrize(
    "said", [Holder("elsewhere.example", 1, "then"), Holder(socket.gethostname(), os.getpid(), "")]
)
def test_what_a_dead_writer_left_is_no_writer(tmp_path, said):
    """One on another machine, and one whose number another process has by now."""
    path, rows = tmp_path / "a.store", clips.rows(3)
    with store.Writer(path, clips.PROVENANCE) as w:
        w.append(clips.record("a", rows), rows)
        assert any(str(os.getpid()) in note for note in store.verify(path).notes)
    (path / "writer.json").write_text(json.dumps(vars(said)))
    assert store.verify(path).notes == []
    (path / "writer.lock").unlink()  # a copy without it
    assert store.verify(path).notes == []


def test_asking_who_writes_keeps_no_writer_out(tmp_path):
    import fcntl

    store.Writer(tmp_path / "a.store", clips.PROVENANCE).close()
    with (tmp_path / "a.store" / "writer.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        timer = threading.Timer(0.005, fcntl.flock, [file.fileno(), fcntl.LOCK_UN])
        timer.start()
        store.Writer(tmp_path / "a.store", clips.PROVENANCE).close()
        timer.join()
