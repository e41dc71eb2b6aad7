from __future__ import annotations

from pathlib import Path

import pytest

from stages.extract import video
from stages.extract.decoders import DecoderError


def refuse(path: Path, obey: bool = True) -> None:
    raise DecoderError("not today")


@pytest.fixture(params=["opencv", "pyav"])
def either_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pyav":
        monkeypatch.setattr(video, "OpenCvDecoder", refuse)
    return str(request.param)
