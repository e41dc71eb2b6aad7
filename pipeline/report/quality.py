"""How good the data behind a run is: clips, frames without a face, size of faces, frame rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.report.charts import Chart, histogram
from stages.fit.spans import FeatureStore, span_table
from store.schema import Status

MEASURED = 500  # clips whose boxes are read
SHOWN = 30  # clips named one by one

MEANING = {
    Status.OK: "read to the end, a face in at least one frame",
    Status.TRUNCATED: "the file ends before its header says",
    Status.NO_FACE: "no face in any frame",
    Status.UNREADABLE: "no frame could be decoded",
    Status.FAILED: "this program's or the machine's fault",
}


@dataclass(frozen=True)
class Quality:
    """``counts``: status, clips, meaning. ``problems``: clip, status, message. Charts."""

    counts: list[tuple[str, int, str]]
    frames: int
    faceless: int
    problems: list[tuple[str, str, str]]
    unnamed: int
    charts: list[Chart]
    boxes_of: int


def look(source: FeatureStore) -> Quality:
    """Look through the index of a store, and through the boxes of at most 500 clips."""
    columns = ("clip", "status", "frames", "valid_frames", "fps", "duration_s", "message")
    rows = list(source.iter_rows(columns, where="track = 0"))
    statuses = [Status(row[1]) for row in rows]
    counts = [(str(s), statuses.count(s), MEANING[s]) for s in Status if s in statuses]
    frames, valid = sum(row[2] for row in rows), sum(row[3] for row in rows)
    troubled = [(row[0], str(row[1]), row[6]) for row in rows if Status(row[1]) is not Status.OK]
    with_rows = [row for row in rows if row[2]]
    missing = [100 * (1 - row[3] / row[2]) for row in with_rows]
    rates = [row[4] for row in with_rows if row[4]]
    seconds = [row[5] for row in with_rows if row[5]]
    sizes = face_sizes(source)
    charts = [
        histogram("Frames without a face", [("clips", missing)], "% of a clip's frames", (0, 100)),
        histogram("Size of the face", [("clips", sizes)], "height of the box in pixels, median"),
        histogram("Frame rate", [("clips", rates)], "frames per second"),
        histogram("Length", [("clips", seconds)], "seconds"),
    ]
    return Quality(
        counts,
        frames,
        frames - valid,
        troubled[:SHOWN],
        len(troubled) - len(troubled[:SHOWN]),
        [c for c in charts if c is not None],
        len(sizes),
    )


def face_sizes(source: FeatureStore) -> list[float]:
    """Median height of the face's box in pixels, of clips spread over the store's rows."""
    spans = span_table(source)
    chosen = np.unique(np.linspace(0, len(spans) - 1, min(len(spans), MEASURED)).astype(int))
    boxes = source.dask("box")
    found = []
    for place in chosen:
        span = spans[place]
        box = np.asarray(boxes[span.start : span.start + span.frames].compute(), np.float64)
        found.append(float(np.nanmedian(box[:, 3] - box[:, 1])))
    return found
