"""What `make demo` leaves, by the demo's own code: less of everything, squares for faces."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.demo import run
from pipeline.demo.catalogue import CLIPS
from pipeline.demo.faces import PORTRAIT_SIZE, Portrait
from tests.testing.clips import moving_square
from tests.testing.packs import tiny_pack
from tests.testing.runs import QUICK

PERSONS, PER_PERSON, FRAMES = 8, 3, 6


def portrait(person: int) -> Portrait:
    """A bright square with a spot of its own; landmarks all over it, so that all of it moves."""
    middle, half = PORTRAIT_SIZE // 2, 60
    image = np.full((PORTRAIT_SIZE, PORTRAIT_SIZE, 3), 10, np.uint8)
    cv2.rectangle(image, (middle - half,) * 2, (middle + half,) * 2, (235, 235, 235), -1)
    spot = (middle - 40 + 10 * person, middle - 20)
    cv2.circle(image, spot, 6 + person, (170, 170, 170), -1)
    rng = np.random.default_rng(0)  # all have the same face
    landmarks = rng.uniform(middle - half, middle + half, (68, 2)).astype(np.float32)
    landmarks[36:42] = landmarks[36:42] / 100 + (middle - 25, middle - 20)
    landmarks[42:48] = landmarks[42:48] / 100 + (middle + 25, middle - 20)
    return Portrait(f"p{person:02d}", image, landmarks, "drawn")


def real_clips(folder: Path, **_: Any) -> list[Path]:
    """Write clips under the names of the demo's real ones."""
    paths = [folder / member.name for member in CLIPS if not member.extra]
    folder.mkdir(parents=True)
    drawn = moving_square(folder / "drawn.mp4", frames=8)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn.read_bytes())
    drawn.unlink()
    return paths


def leave_demo(folder: Path, home: Path) -> Path:
    """Run the demo into ``folder`` with a tiny pack below ``home``, which is FACEPIPE_HOME."""
    pack = tiny_pack(home / "packs/lite")
    fit = run.fit_model
    render = partial(run.render_clips, frames=FRAMES, size=192)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEPIPE_HOME", str(home))
        patch.setattr(run, "CLIPS", PERSONS * PER_PERSON)
        patch.setattr(run.packs, "install", lambda *_: pack)
        patch.setattr(run, "fetch_clips", real_clips)
        patch.setattr(run, "fetch_photos", lambda *_, **__: [])
        patch.setattr(run, "cut_portraits", lambda *_: [portrait(i) for i in range(PERSONS)])
        patch.setattr(run, "render_clips", render)
        patch.setattr(
            run,
            "fit_model",
            lambda name, store, labels, to, given, *rest, **more: fit(
                name, store, labels, to, [*given, *QUICK], *rest, **more
            ),
        )
        run.run_demo(folder, 0)
    return folder
