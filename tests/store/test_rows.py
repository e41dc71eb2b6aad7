import dataclasses
import hashlib

import numpy as np
import pytest

from store import Status, StoreError, array_specs
from store.rows import pack, prepare, rows_sha256, unpack
from tests.store import store_clips as clips


def test_stored_rows_have_the_dtypes_of_the_schema():
    made = clips.rows(7)
    stored = prepare(clips.record("a", made), made, "float16")
    assert {k: str(v.dtype) for k, v in stored.items()} == {
        s.name: s.dtype for s in array_specs("float16")
    }
    assert clips.same(stored, clips.stored(made))


def test_the_arrays_given_are_left_alone():
    made = clips.rows(7)
    made.score[~made.valid] = np.nan
    before = {k: v.copy() for k, v in made.as_dict().items()}
    prepare(clips.record("a", made), made, "float32")
    assert clips.same(made.as_dict(), before)


def test_every_nan_gets_one_bit_pattern():
    made, other = clips.rows(9, seed=3), clips.rows(9, seed=3)
    other.landmark[~other.valid] = np.frombuffer(b"\x01\x00\xc0\xff", np.float32)[0]
    assert not made.valid.all()
    record, specs = clips.record("a", made), array_specs()
    hashes = {rows_sha256(prepare(record, r, "float16"), specs) for r in (made, other)}
    assert len(hashes) == 1


def test_hash_is_the_one_that_format_md_describes():
    made = clips.rows(5)
    stored = prepare(clips.record("a", made), made, "float16")
    plain = hashlib.sha256()
    for name, shape in [
        ("embedding float16", "5x512"), ("appearance float16", "5x512"),
        ("landmark float32", "5x136"), ("timestamp float64", "5"), ("box float32", "5x4"),
        ("score float32", "5"), ("valid bool", "5"),
    ]:  # fmt: skip
        plain.update(f"{name} {shape}\n".encode() + stored[name.split()[0]].tobytes())
    assert rows_sha256(stored, array_specs()) == plain.hexdigest()


@pytest.mark.parametrize("block", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_pack_and_unpack_are_inverse(block, dtype):
    made, specs = clips.rows(7), array_specs(dtype)
    stored = prepare(clips.record("a", made), made, dtype)
    parts = [unpack(n, b"".join(data), specs) for n, data in pack(stored, specs, block)]
    assert all(len(p["valid"]) <= block for p in parts)
    assert clips.same({k: np.concatenate([p[k] for p in parts]) for k in stored}, stored)


def test_float16_overflow_names_clip_and_remedy():
    made = clips.rows(4, invalid=0)
    made.embedding[2, 7] = 1e5
    record = clips.record("day/a.mp4", made)
    with pytest.raises(StoreError, match=r"day/a.mp4.*embedding.*100000.*float16") as caught:
        prepare(record, made, "float16")
    assert "float32" in caught.value.hint
    assert prepare(record, made, "float32")["embedding"][2, 7] == np.float32(1e5)


def spoil(name, index, value):
    def change(made):
        getattr(made, name)[index] = value
        return made

    return change


def swap(name, make):
    return lambda made: dataclasses.replace(made, **{name: make(getattr(made, name))})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (swap("landmark", lambda a: a[:, :134]), r"landmark: expected shape \(6, 136\) float"),
        (swap("embedding", lambda a: a[:5]), r"embedding: expected shape \(6, 512\) float"),
        (swap("score", lambda a: a.astype(np.int32)), r"score: .* got shape \(6,\) int32"),
        (swap("valid", lambda a: a.astype(np.uint8)), r"valid: .* bool, got shape \(6,\) uint8"),
        (spoil("embedding", (1, 3), np.nan), "embedding: expected finite .* frame 1"),
        (spoil("appearance", (1, 3), np.inf), "appearance: expected finite"),
        (spoil("landmark", (2, 0), 300.0), "landmark: expected points within"),
        (spoil("timestamp", 3, 0.0), "timestamp: expected strictly increasing"),
        (spoil("timestamp", 3, np.nan), "timestamp: expected finite"),
        (spoil("score", 3, 1.5), "score: expected values from 0 to 1"),
        (spoil("box", (3, 2), -1.0), "box: expected x1 < x2"),
    ],
)
def test_rows_that_break_an_invariant_are_refused(change, text):
    made = clips.rows(6, invalid=0)
    record = clips.record("a.mp4", made)
    with pytest.raises(StoreError, match=f"clip 'a.mp4', {text}"):
        prepare(record, change(made), "float16")


def test_a_value_in_a_frame_without_a_face_is_refused():
    made = clips.rows(6, seed=1)
    made.box[~made.valid] = 1.0
    assert not made.valid.all()
    with pytest.raises(StoreError, match="box: expected NaN where not valid"):
        prepare(clips.record("a", made), made, "float16")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"frames": 7}, "record.frames: expected 6 as in the rows, got 7"),
        ({"valid_frames": 2}, "record.valid_frames: expected 6"),
        ({"status": Status.NO_FACE}, "status no_face expects no frame with a face"),
    ],
)
def test_a_record_that_disagrees_with_its_rows_is_refused(fields, text):
    made = clips.rows(6, invalid=0)
    with pytest.raises(StoreError, match=text):
        prepare(clips.record("a", made, **fields), made, "float16")


def test_ok_without_a_face_is_refused():
    made = clips.no_face(3)
    with pytest.raises(StoreError, match="status ok expects a face"):
        prepare(clips.record("a", made, status=Status.OK), made, "float16")
    assert prepare(clips.record("a", made), made, "float16")["valid"].sum() == 0
