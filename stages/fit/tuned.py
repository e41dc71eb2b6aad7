"""Settings that were searched for: best.json, and what reports say of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.fit.config import ConfigError
from stages.fit.contestants import Contestant
from stages.fit.fold_runs import fold_file
from stages.fit.report import markdown_table, write_text
from stages.fit.study import Study

BEST = "best.json"
FORMAT = 1


@dataclass(frozen=True)
class Best:
    """What `pipeline tune` chose, as best.json holds it.

    Attributes
    ----------
    model : str
    settings : dict
        key: value for `--set`; those that were given and those that were found.
    src, default_src : float
        Pooled SRC over the inner folds, of these settings and of those given alone.
    trials, inner, seed : int
    protocol : str
        In words, which clips were seen.
    tuned_on : list of str
        The clips whose labels were read.
    """

    model: str
    settings: dict[str, Any]
    src: float
    default_src: float
    trials: int
    inner: int
    seed: int
    protocol: str
    tuned_on: list[str]

    def overrides(self) -> list[str]:
        """Return the settings as `--set` takes them."""
        return [f"{key}={_plain(value)}" for key, value in self.settings.items()]

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_best(path: Path) -> Best:
    """Read a best.json.

    Raises
    ------
    ConfigError
        No such file, or it is none.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held.pop("format") != FORMAT:
            raise ValueError("of another format")
        best = Best(**held)
        if not (isinstance(best.settings, dict) and isinstance(best.tuned_on, list)):
            raise TypeError("settings or tuned_on are not what they should be")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror})", "pipeline tune writes it"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path}: is no {BEST} of pipeline tune ({error})", "give the file that it wrote"
        ) from None
    return best


def optimism(tested: Collection[str], tuned_on: Collection[str]) -> str:
    """Say so if clips are tested by whose labels the settings were chosen; else nothing."""
    both = len(set(tested) & set(tuned_on))
    if not both:
        return ""
    return (
        f"OPTIMISTIC: the settings were chosen by labels of {both} of the {len(set(tested))} clips "
        "that are tested here; pipeline evaluate --tune chooses them within each training fold."
    )


def chosen_text(study: Study, tuned: Sequence[Contestant], folder: Path) -> str:
    """Tell what was chosen in the outer folds of contestants that search; empty without any."""
    parts = []
    for contestant in tuned:
        assert contestant.search is not None
        found = [
            json.loads(fold_file(folder, (contestant, repeat, fold)).read_text())
            for repeat in range(study.design.repeats)
            for fold in range(study.design.folds)
        ]
        kept = sum(not fold["settings"] for fold in found)
        rows = [
            [key, _spread([fold["settings"][key] for fold in found if fold["settings"]])]
            for key in contestant.search.space(contestant.config)
        ]
        parts += [
            f"## What was chosen for {contestant.name}",
            f"In each of the {len(found)} outer training folds {contestant.search.trials} settings "
            f"were tried, compared by pooled SRC over {contestant.search.inner} inner folds of its "
            "clips, and the best used on the test fold, of which nothing was known; in "
            f"{kept} of them none ranked better than the settings given.",
            markdown_table(["setting", "chosen"], rows),
        ]
    return "\n\n".join(parts)


def _spread(values: Sequence[Any]) -> str:
    """Lowest, middle and highest of numbers; how often each of other values."""
    if not values:
        return "never"
    if all(isinstance(value, float) for value in values):
        ordered = sorted(values)
        low, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        return f"{low:.3g} to {high:.3g}, middle {middle:.3g}"
    counts = Counter(str(value).lower() for value in values)
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common())
