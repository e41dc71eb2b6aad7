"""What is searched for each model: which settings, and between which values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.fit import models
from stages.fit.config import ConfigError, FitConfig
from stages.fit.pooled import POOLED, REGRESSORS, STRENGTHS

Value = float | int | str | None


@dataclass(frozen=True)
class Between:
    """Numbers from ``low`` to ``high``, on a logarithmic scale where ``log``."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Value, ...]


Range = Between | OneOf
Space = dict[str, Range]

# Of the loss that networks share, see TemporalModel.loss. alpha 0.03 is next to none.
LOSS: Space = {"train.alpha": Between(0.03, 10), "train.delta": Between(0.05, 2)}
# Of the optimiser, for every network.
OPTIMISER: Space = {"train.lr": Between(3e-4, 1e-2)}
# Options of networks by their names, for those that have them. levels none: as many as cover the
# clip, where the model does that by itself.
OPTIONS: Space = {
    "channels": OneOf((8, 16, 32, 64)),  # divisible by every number of heads that is a default
    "levels": OneOf((None, 2, 3, 4, 5, 6)),
    "dropout": Between(0.0, 0.5, log=False),
}
REGULARISATION: Space = {
    "alpha": Between(1e-3, 1e6),
    "c": Between(0.1, 100),
    "epsilon": Between(0.01, 0.5),
    "gamma": Between(0.03, 3),
    "rate": Between(0.01, 0.3),
    "leaves": OneOf((3, 4, 8, 16, 31)),
}
# Of the pooled models that choose their regressors' strengths themselves.
POOLED_SPACES: dict[str, Space] = {
    "deep": {
        "model.regressor": OneOf(("auto", "ridge", "bayes", "svr", "gp", "boosting")),
        "model.combine": OneOf(("mean", "best")),
    },
    "blind": {"model.dims": OneOf((1, 2, 4, 8, 16))},
    "selective": {
        "model.weight": Between(0.01, 3),
        "model.channels": OneOf((32, 64, 128, 256)),
        "model.dropout": Between(0.0, 0.6, log=False),
        "model.lr": Between(1e-4, 1e-2),
    },
    "mdr": {
        "model.components": OneOf((32, 64, 128, 256)),
        "model.gamma": Between(1e-5, 1e-1),
        "model.lr": Between(1e-4, 1e-2),
    },
}


def space_of(config: FitConfig, keys: Sequence[str] = ()) -> Space:
    """Return the settings that a search of this model tries.

    Parameters
    ----------
    config : FitConfig
        Its model; of pooled models also its regressor.
    keys : sequence of str
        Only these, with or without ``train.`` or ``model.``; empty: all.

    Raises
    ------
    ConfigError
        A key that is not among them.
    """
    if config.model in POOLED:
        default = REGRESSORS[config.model][0]
        strengths = STRENGTHS[config.model_options.get("regressor", default)]
        space = {f"model.{name}": REGULARISATION[name] for name in strengths}
    elif config.model in POOLED_SPACES:
        space = POOLED_SPACES[config.model]
    else:
        has = models.options(config.model)
        shares = models.get(config.model).loss is models.TemporalModel.loss
        space = {**(LOSS if shares else {}), **OPTIMISER}
        for name in (name for name in OPTIONS if name in has):
            allowed = OPTIONS[name]
            if isinstance(allowed, OneOf) and has[name] is not None:
                allowed = OneOf(tuple(value for value in allowed.values if value is not None))
            space[f"model.{name}"] = allowed
    chosen: Space = {}
    for key in keys:
        full = next((k for k in space if key in (k, k.partition(".")[2])), None)
        if full is None:
            raise ConfigError(
                f"'{key}' is not searched for {config.model}", f"searched: {', '.join(space)}"
            )
        chosen[full] = space[full]
    return chosen or space


@dataclass(frozen=True)
class Search:
    """How settings are searched for.

    Attributes
    ----------
    trials : int
        Settings that are tried, beside those that are there already.
    inner : int
        Folds of the training clips by which they are compared.
    keys : tuple of str
        Only these settings; empty: all of the model's space.
    """

    trials: int
    inner: int = 3
    keys: tuple[str, ...] = ()

    def space(self, config: FitConfig) -> Space:
        """Return what is tried for this configuration's model."""
        return space_of(config, self.keys)

    def told(self, config: FitConfig) -> dict[str, Any]:
        """Everything that the choice hangs on, as JSON types."""
        space = {key: list(vars(allowed).values()) for key, allowed in self.space(config).items()}
        return {"trials": self.trials, "inner": self.inner, "space": json.loads(json.dumps(space))}
