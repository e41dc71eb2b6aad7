"""`pipeline models`: what can be fitted, and where each comes from."""

from __future__ import annotations

from pipeline import console
from pipeline.options import Json


def models(
    json: Json = False,
) -> None:
    """List the models of stage two: name, what it is, its source.

    Example: pipeline models
    """
    from stages.fit import action_units
    from stages.fit import models as registry
    from stages.fit import pooled_models as pooled

    known = [registry.describe(name) for name in registry.names()]
    known += [pooled.describe(name) for name in pooled.POOLED_MODELS]
    known.append(action_units.describe())
    if json:
        console.emit({"models": [vars(model) for model in known]})
        return
    rows: list[list[object]] = [[m.name, m.summary, m.source] for m in known]
    console.table("", ["model", "what it is", "source"], rows)
