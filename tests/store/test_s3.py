"""Stores in object storage, read from a real S3 server in a process of its own."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import store
from pipeline.cli import app
from stages.fit.loader import ClipLoader
from stages.fit.spans import span_table
from store.care import compact, forget, size
from store.merge import merge
from store.repair import repair
from tests.store import store_clips as clips

BUCKET = "facepipe-test"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """Return fsspec's file system on a server that nothing else uses."""
    import s3fs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as env:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            env.setenv(name, value)
        try:
            for _ in range(300):
                assert server.poll() is None, "the server ended"
                try:
                    urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            s3fs.S3FileSystem.clear_instance_cache()
            fs = s3fs.S3FileSystem()
            fs.mkdir(BUCKET)
            yield fs
        finally:
            server.kill()
            server.wait()
            s3fs.S3FileSystem.clear_instance_cache()
            log.close()


def write(path: Path, names: str, seed: int = 0) -> Path:
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i, name in enumerate(names):
            rows = clips.rows(5 + 3 * i, seed=seed + i)
            w.append(clips.record(name, rows), rows)
        w.append(clips.record(f"{path.stem}/bad", None), None)
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stores") / "a.store", "123")


@pytest.fixture(scope="module")
def url(s3, local):
    return put(s3, local)


def put(s3, path: Path) -> str:
    s3.put(str(path), f"{BUCKET}/{path.name}", recursive=True)
    return f"s3://{BUCKET}/{path.name}"


def test_reads_what_the_local_store_holds(url, local):
    remote, near = store.open(url), store.open(local)
    assert list(remote.records()) == list(near.records())
    assert remote.index().equals(near.index())
    columns = ["clip", "start", "frames"]
    assert list(remote.iter_rows(columns, by_start=True)) == list(
        near.iter_rows(columns, by_start=True)
    )
    assert [r.clip for r in remote.records(where="frames > 5 AND status = 'ok'")] == ["2", "3"]
    assert (remote.n_rows, len(remote), remote.provenance) == (24, 4, near.provenance)
    for i, name in enumerate("123"):
        assert clips.same(remote.clip(name), clips.stored(clips.rows(5 + 3 * i, seed=i)))
    lazy = remote.dask("embedding")
    assert lazy.chunks[0] == (24,)
    np.testing.assert_array_equal(lazy.compute(), near.dask("embedding").compute())
    with pytest.raises(store.ClipNotFoundError, match="holds no clip '9'"):
        remote.clip("9")


def test_opening_reads_no_arrays(url, monkeypatch):
    monkeypatch.setattr("store.reader.Arrays", None)
    assert len(store.open(url + "/")) == 4


def test_pickles_by_address(url, local):
    remote = pickle.loads(pickle.dumps(store.open(url)))
    assert clips.same(remote.clip("2"), store.open(local).clip("2"))
    lazy = pickle.loads(pickle.dumps(remote.dask("score")))
    assert lazy.compute().shape == (24,)


def test_the_copy_of_the_index_goes_with_close(url, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with store.open(url) as remote:
        (copy,) = tmp_path.iterdir()
        assert [p.name for p in copy.iterdir()] == ["index.sqlite"]
        remote.clip("1")
        assert list(tmp_path.iterdir()) == [copy]
    assert list(tmp_path.iterdir()) == []
    assert len(remote) == 4  # opened again, as a local one would be
    assert len(list(tmp_path.iterdir())) == 1
    del remote
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_the_copy_of_the_index_goes_with_the_process(url, tmp_path):
    code = f"import store; s = store.open({url!r}); s.clip('1')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_several_as_one_some_of_them_local(s3, url, local, tmp_path):
    other = write(tmp_path / "b.store", "456", seed=7)
    far = store.open([url, put(s3, other)])
    near = store.open([local, other])
    mixed = store.open([str(local), f"s3://{BUCKET}/b.store"])
    for several in (far, mixed):
        assert list(several.records()) == list(near.records())
        np.testing.assert_array_equal(
            several.dask("landmark").compute(), near.dask("landmark").compute()
        )
    assert clips.same(far.clip("5"), near.clip("5"))
    with pytest.raises(store.ClipExistsError, match=f"'1' is in two stores: {url} and "):
        store.open([url, str(local)])


def test_the_loader_reads_it(url, local):
    def loaded(place):
        source = store.open(place)
        loader = ClipLoader(source, span_table(source), block_rows=16)
        return {clip.clip: clip.appearance for clip in loader.iter_clips()}

    far, near = loaded(url), loaded(local)
    assert sorted(far) == sorted(near) == ["1", "2", "3"]
    for name in near:
        np.testing.assert_array_equal(far[name], near[name])


def test_verify_digest_and_size(s3, url, local):
    assert store.verify(url).ok
    assert store.verify(url).rows == 24
    assert list(store.digest(url)) == list(store.digest(local))
    assert size(url) == sum(s3.find(f"{BUCKET}/a.store", detail=True)[k]["size"]
                            for k in s3.find(f"{BUCKET}/a.store"))  # fmt: skip


def test_a_missing_shard_is_damage_and_not_an_absence_of_faces(s3, local, tmp_path):
    path = tmp_path / "hole.store"
    shutil.copytree(local, path)
    (path / "arrays.zarr" / "landmark" / "c" / "0" / "0").unlink()
    remote = store.open(put(s3, path))
    with pytest.raises(store.StoreError, match="clip '1' cannot be read.*landmark/c/0/0 is miss"):
        remote.clip("1")
    assert len(remote.clip("1", arrays=["score"])["score"]) == 5
    assert not store.verify(f"s3://{BUCKET}/hole.store").ok


def test_a_store_copied_from_under_a_killed_writer_is_rolled_back(s3, local, tmp_path):
    path = tmp_path / "hot.store"
    shutil.copytree(local, path)
    program = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('DELETE FROM clip')\n"
        "for i in range(300): db.execute('INSERT INTO meta VALUES (?, ?)', (i, 'x' * 999))\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, path / "index.sqlite"], check=False)
    assert (path / "index.sqlite-journal").exists()
    assert len(store.open(put(s3, path))) == 4


def test_replaced_by_a_compacted_store_while_open(s3, local, tmp_path):
    path = tmp_path / "moved.store"
    shutil.copytree(local, path)
    remote = store.open(put(s3, path))
    rows = clips.rows(9, seed=9)
    with store.Writer(path, clips.PROVENANCE) as w:
        w.append(clips.record("1", rows), rows, replace=True)
    s3.rm(f"{BUCKET}/moved.store", recursive=True)
    put(s3, path)
    with pytest.raises(store.StoreError, match="arrays.zarr is missing or does not belong"):
        remote.clip("2")
    remote.close()
    assert clips.same(remote.clip("1"), clips.stored(rows))


@pytest.mark.parametrize(
    "act",
    [
        lambda url: store.Writer(url, clips.PROVENANCE),
        compact,
        repair,
        lambda url: forget(url, ["1"]),
        lambda url: merge("out.store", [url]),
        lambda url: merge(url, ["x.store"]),
        lambda url: store.open(Path(url)),
        lambda url: store.Writer(Path(url), clips.PROVENANCE),
    ],
)
def test_what_would_write_is_refused(act, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(store.StoreError, match="expected a path on a local disk, got a URL"):
        act(url)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there(s3):
    for address in (f"s3://{BUCKET}/none.store", "s3://no-such-bucket/x.store"):
        with pytest.raises(store.StoreNotFoundError, match=f"{address}: there is no store"):
            store.open(address)
    with pytest.raises(store.StoreError, match="nonsense://x: cannot be read: Protocol not known"):
        store.open("nonsense://x")


def test_a_server_that_does_not_answer_is_one_line(s3, monkeypatch):
    import s3fs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            with pytest.raises(store.StoreError, match="x.store: cannot be read: ") as caught:
                store.open(f"s3://{BUCKET}/x.store")
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
    assert "\n" not in str(caught.value)
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_a_missing_package_is_named(monkeypatch):
    found: dict[str, type] = {}
    monkeypatch.setitem(sys.modules, "s3fs", None)
    registry = importlib.import_module("fsspec.registry")  # fsspec.registry is something else
    monkeypatch.setattr(registry, "_registry", found)
    monkeypatch.setattr(registry, "registry", found)
    with pytest.raises(store.StoreError, match="s3:// needs the package s3fs") as caught:
        store.open(f"s3://{BUCKET}/x.store")
    assert caught.value.hint == "pip install 'facepipe[s3]'"


def test_commands_take_addresses(url, monkeypatch):
    run = CliRunner()
    done = run.invoke(app, ["store", "info", url, "--json"], catch_exceptions=False)
    assert f'"store": "{url}"' in done.stdout
    assert '"frames": 24' in done.stdout
    done = run.invoke(app, ["store", "verify", url], catch_exceptions=False)
    assert f"{url}: whole" in " ".join(done.output.split())

    seen = []
    monkeypatch.setattr("pipeline.fitting.fit_model", lambda *args, **_: seen.append(args[1]))
    monkeypatch.setattr("pipeline.fitting.show_fit", lambda fitted: None)
    run.invoke(app, ["fit", "--store", url], catch_exceptions=False)
    run.invoke(app, ["fit", "--store", url, "--store", "b.store"], catch_exceptions=False)
    assert seen == [url, [url, "b.store"]]
