from __future__ import annotations

import pytest

from stages.fit.config import ConfigError, FitConfig, apply_overrides, keys
from stages.fit.models import ModelError


def test_overrides_reach_every_section_and_keep_the_rest() -> None:
    config = apply_overrides(
        FitConfig(),
        [
            "split.test=0.33",
            "model.channels=32",
            "model.levels=none",
            "lr=1e-3",
            "train.loss=printed",
            "fps=25",
            "model.attention=false",
            "stream = embedding",
        ],
    )
    assert config.split.test == 0.33 and config.split.val == FitConfig().split.val
    assert config.model_options == {"channels": 32, "levels": None, "attention": False}
    assert (config.train.lr, config.train.loss, config.fps) == (1e-3, "printed", 25)
    assert config.stream == "embedding"
    assert FitConfig().model_options == {}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sede=1", "no setting 'sede'; did you mean 'seed'"),
        ("split.tset=0.3", "did you mean 'split.test'"),
        ("model.chanels=3", "did you mean 'model.channels'"),
        ("learning_rat=3", "no setting 'learning_rat'"),
        ("model_options=3", "no setting 'model_options'"),
        ("seed", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("seed=-1", "seed: input should be greater than or equal to 0, found -1"),
        ("epochs=many", "train.epochs: .*found 'many'"),
        ("split.test=1", "split.test: "),
        ("stream=appearance+", "stream: .*pattern"),
    ],
)
def test_bad_overrides_are_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        apply_overrides(FitConfig(), [override])
    assert caught.value.exit_code == 2


def test_the_nearest_model_is_named_and_all_that_there_are() -> None:
    with pytest.raises(ModelError, match="'2stnc'; did you mean '2stcn'") as caught:
        apply_overrides(FitConfig(model="2stnc"), [])
    for name in ("meanpool", "blind", "hmtnet", "mdr", "au"):
        assert name in caught.value.hint


def test_bad_models_and_options_are_named() -> None:
    with pytest.raises(ModelError, match="no model named 'resnet'"):
        apply_overrides(FitConfig(), ["model=resnet"])
    with pytest.raises(ModelError, match="channels of model '2stcn'"):
        apply_overrides(FitConfig(), ["model.channels=big"])


def test_keys_name_all_that_can_be_set() -> None:
    valid = keys()
    assert {"seed", "split.val", "train.lr", "model.gate", "model"} <= set(valid)
    assert "model.max_frames" not in valid  # taken from the clips; max_frames crops
    assert "max_frames" in valid


def test_a_configuration_survives_json() -> None:
    config = apply_overrides(FitConfig(), ["model.channels=4", "fps=12.5"])
    assert FitConfig.model_validate_json(config.model_dump_json()) == config
