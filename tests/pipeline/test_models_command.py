from __future__ import annotations

import json
from pathlib import Path

from tests.testing.command import called


def test_models_are_listed_with_their_sources(tmp_path: Path) -> None:
    told = json.loads(called(tmp_path, "models", "--json").stdout)["models"]
    assert {"2stcn", "2stcn-plus", "tcn", "gru", "meanpool", "statpool", "mdr", "au"} <= {
        model["name"] for model in told
    }
    assert all(model["summary"] and model["source"] for model in told)
    shown = called(tmp_path, "models").stdout
    assert "meanpool" in shown and "lidq92/VSFA" in shown
