"""Who stands in a table: the models asked for, and the baselines that are always there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from stages.fit import models
from stages.fit.config import ConfigError, FitConfig, apply_overrides, check_options, validate
from stages.fit.pooled_models import POOLED_MODELS, WITHOUT_ORDER, create, default_stream
from stages.fit.spaces import Search
from store.companion import open_companion

Kind = Literal["network", "pooled", "attributes", "constant"]
MEANPOOL, ATTRIBUTES, CONSTANT = "meanpool", "attributes only", "constant"
SHUFFLED, TUNED = " (frames shuffled)", " (tuned)"
# Columns that are taken for attributes of a person unless others are named. Not every column: a
# count of raters or of views would be part of the label.
KNOWN_ATTRIBUTES = ("gender", "sex", "age", "race", "ethnicity")


def _ridge() -> Pipeline:
    """Ridge on standardised columns, its strength chosen by leave-one-out."""
    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-4, 6, 21)))


@dataclass(frozen=True)
class Contestant:
    """One row of every table: how it is called, and what is fitted.

    ``shuffled``: it is trained and tested on clips whose frames are in random order. ``search``:
    in every fold other settings than those of ``config`` are looked for first, see search.py.
    """

    name: str
    kind: Kind
    config: FitConfig
    shuffled: bool = False
    search: Search | None = None

    @property
    def slug(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def tells_frames(self) -> bool:
        """Whether what it says of frames is kept: a network that reads them, in their order."""
        reads = models.pictures(self.config.model, self.config.model_options) is None
        return self.kind == "network" and reads and not self.shuffled

    def in_disorder(self) -> Contestant:
        """Itself on shuffled frames."""
        return Contestant(self.name + SHUFFLED, self.kind, self.config, True)

    def tuned(self, search: Search) -> Contestant:
        """Itself with settings that are searched for."""
        search.space(self.config)  # that its keys are known
        return Contestant(self.name + TUNED, self.kind, self.config, self.shuffled, search)

    def with_settings(self, settings: Mapping[str, Any]) -> Contestant:
        """Itself with settings changed (``train.lr``, ``model.channels``), and no more to search.

        Raises
        ------
        ConfigError, ModelError
            A setting that it does not have.
        """
        data = self.config.model_dump()
        for key, value in settings.items():
            section, _, leaf = key.partition(".")
            data["model_options" if section == "model" else section][leaf] = value
        return Contestant(self.name, self.kind, validate(data), self.shuffled)

    def settings(self) -> dict[str, Any]:
        """Everything that its predictions hang on, as JSON types."""
        config = self.config.model_dump(
            mode="json", exclude={"bootstrap", "budget", "group", "normalise", "seed"}
        )
        if self.config.features is None:
            del config["features"]  # as it was before there were any
        else:
            config["features"] = open_companion(self.config.features).about
        told = {"kind": self.kind, "shuffled": self.shuffled, "config": config}
        return told | ({"search": self.search.told(self.config)} if self.search else {})


def choose_contestants(
    names: Sequence[str],
    settings: Sequence[str],
    attributes: Sequence[str],
    search: Search | None = None,
) -> list[Contestant]:
    """Return the contestants for the models asked for, and the baselines that always stand by.

    The models stand first, with ``search`` each of them tuned as well; then each by itself on
    shuffled frames (but for those that do not see their order, such as time averages), then
    ``meanpool``, the attributes if there are any, and the constant.

    Parameters
    ----------
    names : sequence of str
        Registered networks, or models that pool over time.
    settings : sequence of str
        key=value as for `pipeline fit`; an option ``model.X`` goes to those that have it.
    attributes : sequence of str
        Columns of the labels.
    search : Search, optional

    Raises
    ------
    ModelError
        There is no such model.
    ConfigError
        There is no such setting, in any of the models.
    """
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"each model once, and at least one: {', '.join(names) or 'none given'}")
    plain = [text for text in settings if not text.strip().startswith("model.")]
    own = [text for text in settings if text.strip().startswith("model.")]

    base = apply_overrides(FitConfig(), plain)
    taken: set[str] = set()
    refused: list[models.ModelError] = []
    chosen: list[Contestant] = []
    for name in names:
        if name in POOLED_MODELS:
            options: dict[str, Any] = {}
            for text in sorted(own, key=lambda t: "regressor" not in t):  # it decides on others
                key, _, value = text.strip().removeprefix("model.").partition("=")
                try:
                    create(name, 0, **{**options, key: value})
                except models.ModelError as error:
                    refused.append(error)
                else:
                    options[key] = value
                    taken.add(text)
            config = base.model_copy(update={"model": name, "model_options": options})
            check_options(config)
            if not any(text.partition("=")[0].strip() == "stream" for text in plain):
                config = config.model_copy(update={"stream": default_stream(name)})
            chosen.append(Contestant(name, "pooled", config))
        elif name in models.names():
            has = models.options(name)
            mine = [t for t in own if t.partition("=")[0].strip().removeprefix("model.") in has]
            taken.update(mine)
            config = apply_overrides(FitConfig(model=name), [*plain, *mine])
            chosen.append(Contestant(name, "network", config))
        else:
            raise models.unknown(name, [*models.names(), *POOLED_MODELS])
    left = [text for text in own if text not in taken]
    if left:
        networks = [c.config.model for c in chosen if c.kind == "network"]
        if networks:  # says what is near
            apply_overrides(FitConfig(model=networks[0]), left)
        raise refused[0]
    return [
        *chosen,
        *([c.tuned(search) for c in chosen] if search else []),
        *(c.in_disorder() for c in chosen if _sees_order(c)),
        *standing(base, attributes, MEANPOOL in names),
    ]


def _sees_order(contestant: Contestant) -> bool:
    if contestant.kind == "network":
        return models.get(contestant.config.model).sees_order
    return contestant.name not in WITHOUT_ORDER


def standing(
    base: FitConfig, attributes: Sequence[str], without_meanpool: bool = False
) -> list[Contestant]:
    """Return the baselines that stand in every table."""
    meanpool = Contestant(MEANPOOL, "pooled", base.model_copy(update={"model": MEANPOOL}))
    return [
        *([] if without_meanpool else [meanpool]),
        *([Contestant(ATTRIBUTES, "attributes", base)] if attributes else []),
        Contestant(CONSTANT, "constant", base),
    ]


def attribute_columns(table: pd.DataFrame, named: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the columns named, or those that are commonly attributes of a person.

    Returns
    -------
    columns, constant
        Those with one value only are told apart: they say nothing, and a contestant that goes by
        them alone would only make the others' correction harder.

    Raises
    ------
    ConfigError
        A column that the labels do not have.
    """
    missing = [name for name in named if name not in table.columns]
    if missing:
        raise ConfigError(
            f"the labels have no column '{missing[0]}'",
            f"columns: {', '.join(table.columns)}",
        )
    found = list(named) or [c for c in table.columns if str(c).lower() in KNOWN_ATTRIBUTES]
    return [c for c in found if table[c].nunique() > 1], [
        c for c in found if table[c].nunique() < 2
    ]


def attribute_ridge(table: pd.DataFrame, columns: Sequence[str]) -> Pipeline:
    """Ridge on columns of the labels: numbers as they are, words one column each.

    Empty cells of a column of numbers become its mean over the clips fitted on; a word that was not
    among those is none of the known ones.
    """
    numbers = [c for c in columns if pd.to_numeric(table[c], errors="coerce").notna().any()]
    words = [c for c in columns if c not in numbers]
    numeric = make_pipeline(SimpleImputer(keep_empty_features=True))
    chosen = make_column_transformer(
        (numeric, numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), words),
    )
    return make_pipeline(chosen, _ridge())


def attribute_table(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the attribute columns with numbers where a column holds any, words elsewhere."""
    found = {}
    for column in columns:
        values = pd.to_numeric(table[column], errors="coerce")
        found[column] = values if values.notna().any() else table[column].astype(str)
    return pd.DataFrame(found)
