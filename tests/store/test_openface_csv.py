"""Files of OpenFace's FeatureExtraction become a store."""

import io

import numpy as np
import pandas as pd
import pytest

import store
from store.exchange_formats import import_from


def openface(space, n=5, **columns):
    made = {"frame": range(1, n + 1), "face_id": 0, "timestamp": np.arange(n) / 25,
            "confidence": 0.98, "success": [1] * (n - 1) + [0], "gaze_0_x": 0.1,
            **{f"{a}_{i}": np.arange(n) + i for a in "xy" for i in range(68)},
            **columns}  # fmt: skip
    table = pd.DataFrame({k: v for k, v in made.items() if v is not None})
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.3f")
    return text.getvalue().replace(",", ", ") if space else text.getvalue()


@pytest.mark.parametrize("space", [False, True])
def test_openfaces_own_files_are_read(tmp_path, space):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p1.csv").write_text(openface(space))
    import_from(tmp_path, "csv", tmp_path / "o.store")
    rows = store.open(tmp_path / "o.store").clip("sub/p1")
    assert list(rows["valid"]) == [True] * 4 + [False]
    assert rows["landmark"][1][:6].tolist() == [1, 1, 2, 2, 3, 3]
    assert np.allclose(rows["timestamp"], np.arange(5) / 25)
    assert np.allclose(rows["score"][:4], 0.98) and np.isnan(rows["score"][4])
    told = store.open(tmp_path / "o.store").provenance
    assert told["pack"]["name"] == "imported"
    assert told["imported"] == {"format": "csv"}


def test_openfaces_faces_are_tracks_and_times_may_be_given(tmp_path):
    text = openface(False, 3, timestamp=None)
    more = openface(False, 3, timestamp=None, face_id=1).splitlines(keepends=True)[1:]
    (tmp_path / "m.csv").write_text(text + "".join(more))
    with pytest.raises(store.StoreError, match=r"m\.csv: expected timestamp") as refused:
        import_from(tmp_path / "m.csv", "csv", tmp_path / "m.store")
    assert "--fps" in refused.value.hint
    import_from(tmp_path / "m.csv", "csv", tmp_path / "m.store", fps=10)
    opened = store.open(tmp_path / "m.store")
    assert [(r.clip, r.track, r.fps) for r in opened.records()] == [("m", 0, 10), ("m", 1, 10)]
    assert opened.clip("m", 1)["timestamp"].tolist() == [0, 0.1, 0.2]


def test_frames_that_a_csv_lacks_take_their_time(tmp_path):
    (tmp_path / "g.csv").write_text(openface(False, frame=[11, 12, 13, 18, 19], timestamp=None))
    late = openface(False, 3, frame=[7, 9, 10], timestamp=None, face_id=1).splitlines(True)[1:]
    text = openface(False, 3, frame=[5, 6, 7], timestamp=None)
    (tmp_path / "two.csv").write_text(text + "".join(late))
    import_from(tmp_path, "csv", tmp_path / "g.store", fps=10)
    opened = store.open(tmp_path / "g.store")
    assert opened.clip("g")["timestamp"].tolist() == [0, 0.1, 0.2, 0.7, 0.8]
    assert opened.clip("two", 1)["timestamp"].tolist() == [0.2, 0.4, 0.5]
