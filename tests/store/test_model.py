"""Random sequences of what can happen to a store, against a plain dict."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import store
from store.care import forget
from store.exchange import export
from store.exchange_formats import import_from
from store.layout import Layout
from store.merge import merge
from tests.store import store_clips as clips
from tests.store.store_faults import Faults, Killed, kill

CLIPS = st.sampled_from(["a.mp4", "b/c.mp4", "d.mp4"])
TRACKS = st.integers(0, 1)
STEP = st.one_of(
    st.tuples(
        st.just("append"), CLIPS, TRACKS, st.integers(0, 9), st.integers(0, 5), st.booleans()
    ),
    st.tuples(st.just("remove"), CLIPS),
    st.tuples(st.just("flush")),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("forget"), CLIPS),
    st.tuples(st.just("merge"), CLIPS),
    st.tuples(st.just("exchange"), st.sampled_from(["hdf5", "npz"])),
    st.tuples(st.just("crash"), st.integers(0, 60), st.booleans()),
)


@cache
def rows(n, seed, crops):
    made = clips.no_face(n) if seed == 5 else clips.rows(n, seed=seed)
    return clips.with_crops(made, 1 + seed % 3, seed) if crops else made


class Machine:
    """A store and the dict that it must equal: (clip, track) -> rows, or None."""

    def __init__(self, path, layout, faults, crops=False):
        self.crop_size = clips.CROP if crops else None
        self.path, self.layout, self.faults = path, layout, faults
        self.model, self.before = {}, {}
        self.open()

    def open(self):
        self.writer = self.write(self.path)

    def write(self, path):
        return store.Writer(path, clips.PROVENANCE, layout=self.layout, crop_size=self.crop_size)

    def apply(self, step):
        kind, *args = step
        if kind == "crash":
            self.faults.arm(*args)
            return
        try:
            getattr(self, kind)(*args)
        except Killed:
            kill(self.writer)
            self.recover()

    def append(self, clip, track, n, seed, replace):
        key = (clip, track)
        given = rows(n, seed, self.crop_size is not None) if n else None
        clash = self.model.get(key) is not None and not replace
        self.before = dict(self.model)
        if not clash:
            self.model[key] = given
        try:
            self.writer.append(clips.record(clip, given, track=track), given, replace)
        except store.ClipExistsError:
            assert clash
        else:
            assert not clash

    def remove(self, clip):
        self.before = dict(self.model)
        self.model = {k: v for k, v in self.model.items() if k[0] != clip}
        try:
            self.writer.remove(clip)
        except store.ClipNotFoundError:
            assert self.model == self.before
        else:
            assert self.model != self.before

    def forget(self, clip):
        held = any(key[0] == clip for key in self.model)
        before, self.before = dict(self.model), self.model
        self.writer.close()
        self.model = {k: v for k, v in self.model.items() if k[0] != clip}
        self.before = before
        try:
            forget(self.path, [clip])
        except store.ClipNotFoundError:
            assert not held
        else:
            assert held
            # An id may be part of another one's bytes, but these are not.
            assert not any(clip.encode() in f.read_bytes() for f in self.files())
        self.open()

    def files(self):
        return [f for f in self.path.rglob("*") if f.is_file()]

    def merge(self, clip):
        """Split off a clip into a store of its own, and merge the two."""
        self.before = self.model
        self.writer.close()
        self.faults.arm(None)  # merging touches the store itself by two renames only
        parts = [self.path.with_name(f"{k}.store") for k in "xy"]
        for k, part in enumerate(parts):
            chosen = {key: v for key, v in self.model.items() if (key[0] == clip) == bool(k)}
            with self.write(part) as w:
                for (name, track), given in chosen.items():
                    w.append(clips.record(name, given, track=track), given)
        self.take(lambda out: merge(out, parts, layout=self.layout), parts)

    def exchange(self, form):
        """Export the store, and import what was exported in its place."""
        if self.crop_size is not None:
            return  # imports make no crops
        self.before = self.model
        self.writer.close()
        self.faults.arm(None)
        file = self.path.with_name("exported")
        with store.open(self.path) as opened:
            export(opened, form, file)
        if not self.model:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
            self.open()
            return
        self.take(lambda out: import_from(file, form, out), [file])

    def take(self, make, leftovers):
        made = self.path.with_name("made.store")
        make(made)
        for path in [self.path, *leftovers]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        made.rename(self.path)
        self.check_closed()
        self.open()

    def flush(self):
        self.before = self.model
        self.writer.flush()
        assert self.held(store.open(self.path)) == self.described(self.model)

    def reopen(self):
        self.before = self.model
        self.writer.close()
        self.check_closed()
        self.open()

    def recover(self):
        """After a kill, the store is as before the step that was killed, or as after it."""
        self.faults.arm(None)
        assert store.verify(self.path).problems == []
        self.open()
        known = {(r.clip, r.track): r.rows_sha256 for r in self.writer.records()}
        self.model = next(m for m in (self.model, self.before) if known == self.described(m))

    def check_closed(self):
        s = store.open(self.path)
        assert self.held(s) == self.described(self.model)
        for (clip, track), made in self.model.items():
            if made is not None:
                assert clips.same(s.clip(clip, track), clips.stored(made))
                if self.crop_size is not None:
                    assert clips.same_crops(s.crops(clip, track), made)
        assert s.n_rows == sum(len(v) for v in self.model.values() if v is not None)
        report = store.verify(self.path)
        assert (report.problems, report.notes) == ([], [])

    @staticmethod
    def held(s):
        return {(r.clip, r.track): r.rows_sha256 for r in s.records()}

    @staticmethod
    def described(model):
        return {k: sha(v) for k, v in model.items()}


@cache
def _sha(key):
    from store.rows import prepare, rows_sha256

    given = _KNOWN[key]
    return rows_sha256(prepare(clips.record("x", given), given, "float16"), store.array_specs())


_KNOWN = {}


def sha(given):
    if given is None:
        return ""
    _KNOWN[id(given)] = given  # rows() caches, so that ids stay
    return _sha(id(given))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(STEP, max_size=14),
    st.sampled_from([(1, 1, 1), (2, 4, 5), (4, 8, 12), (3, 30, 1000)]),
    st.booleans(),
)
@pytest.mark.no_cover
def test_any_sequence_equals_the_model(steps, layout, crops):
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        patch.setattr("store.index._PRAGMAS", ("synchronous=OFF", "auto_vacuum=INCREMENTAL"))
        try:
            sizes = Layout(*layout, crop_shard_rows=layout[0] + 1, crop_flush_rows=layout[2])
            machine = Machine(folder / "a.store", sizes, Faults(patch), crops)
            for step in steps:
                machine.apply(step)
            machine.faults.arm(None)
            machine.apply(("reopen",))
            machine.writer.close()
        finally:
            shutil.rmtree(folder)
