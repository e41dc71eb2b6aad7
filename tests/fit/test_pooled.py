from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.fit.batches import ClipData
from stages.fit.grouped_choice import ridge_alpha
from stages.fit.models import ModelError
from stages.fit.pooled import ALPHAS, POOLED, REGRESSORS, PooledRegressor
from stages.fit.summaries import derivatives, statistics, time_average


def clip(rng: np.random.Generator, n: int = 12, channels: int = 6, name: str = "a") -> ClipData:
    return ClipData(
        name,
        rng.normal(size=(n, channels)).astype(np.float16),
        rng.normal(size=(n, 136)).astype(np.float32),
        np.ones(n, bool),
        np.arange(n) / 25,
    )


def stills(count: int, seed: int = 0) -> tuple[list[ClipData], np.ndarray]:
    """One-frame clips whose label is a weighted sum of their appearance, and a little noise."""
    rng = np.random.default_rng(seed)
    clips = [clip(rng, 1) for _ in range(count)]
    x = np.stack([c.appearance[0] for c in clips]).astype(np.float64)
    return clips, 10 + 3 * x @ np.array([1, -1, 0.5, 0, 0, 0]) + rng.normal(size=count) * 0.3


ALL = [(kind, regressor) for kind in POOLED for regressor in REGRESSORS[kind]]


@pytest.mark.parametrize(("kind", "regressor"), ALL)
def test_every_regressor_learns_from_stills_in_label_units(kind: str, regressor: str) -> None:
    clips, score = stills(200)
    model = PooledRegressor(kind, regressor=regressor, streams="appearance")
    assert model.strength == {}
    model.fit(iter(clips[:150]), score[:150])
    found = model.predict(iter(clips[150:]))
    assert found.shape == (50,) and found.dtype == np.float64
    assert stats.pearsonr(found, score[150:]).statistic > 0.9
    assert abs(found.mean() - score[150:].mean()) < 1
    assert model.strength and all(v > 0 for v in model.strength.values())


@pytest.mark.parametrize(("kind", "regressor"), ALL)
def test_noise_is_not_learnt(kind: str, regressor: str) -> None:
    clips, _ = stills(160)
    score = np.random.default_rng(9).normal(size=160)
    found = PooledRegressor(kind, regressor=regressor).fit(clips[:100], score[:100])
    # Three standard errors of a correlation of 60 pairs.
    assert abs(stats.spearmanr(found.predict(clips[100:]), score[100:]).statistic) < 3 / 59**0.5


def test_the_same_seed_gives_the_same_predictions() -> None:
    clips, score = stills(80)
    for kind, regressor in ALL:
        pair = [PooledRegressor(kind, 3, regressor=regressor).fit(clips, score) for _ in "ab"]
        np.testing.assert_array_equal(pair[0].predict(clips), pair[1].predict(clips))


@pytest.mark.parametrize("kind", POOLED)
def test_frames_without_a_face_change_nothing(kind: str) -> None:
    rng = np.random.default_rng(0)
    clips = [clip(rng) for _ in range(20)]
    model = PooledRegressor(kind).fit(clips, rng.normal(size=20))
    whole = clips[0]
    dirty = replace(
        whole,
        appearance=np.concatenate([whole.appearance, np.full((3, 6), 99, np.float16)]),
        landmark=np.concatenate([whole.landmark, np.full((3, 136), 99, np.float32)]),
        valid=np.concatenate([whole.valid, np.zeros(3, bool)]),
        timestamp=np.arange(15) / 25,
    )
    np.testing.assert_allclose(model.predict([dirty]), model.predict([whole]), rtol=1e-12)


@pytest.mark.parametrize("kind", POOLED)
def test_a_clip_without_a_face_gets_the_mean_label_and_is_not_fitted_on(kind: str) -> None:
    clips, score = stills(30)
    blind = replace(clips[0], valid=np.zeros(1, bool))
    model = PooledRegressor(kind).fit([*clips, blind], [*score, 1e6])
    assert model.predict([blind])[0] == pytest.approx(score.mean())
    np.testing.assert_array_equal(
        model.predict(clips), PooledRegressor(kind).fit(clips, score).predict(clips)
    )


def test_derivatives_of_a_parabola_whatever_the_frame_rate() -> None:
    for step in (np.full(9, 0.04), np.array([0.03, 0.05] * 4 + [0.03])):
        t = np.concatenate([[0.0], np.cumsum(step)])
        x = np.stack([3 * t, 2 * t**2], axis=1)
        velocity, acceleration = derivatives(x, np.ones(10, bool), t)
        assert velocity.shape == (9, 2) and acceleration.shape == (8, 2)
        np.testing.assert_allclose(velocity[:, 0], 3)
        np.testing.assert_allclose(velocity[:, 1], 4 * (t[1:] + t[:-1]) / 2)
        np.testing.assert_allclose(acceleration[:, 0], 0, atol=1e-9)
        np.testing.assert_allclose(acceleration[:, 1], 4)


def test_no_difference_is_taken_across_a_gap() -> None:
    t = np.array([0, 1, 2, 3, 4, 20, 21, 21, 22], float)
    x = np.array([0, 1, 2, 99, 4, 50, 51, 77, 52], float)[:, None]
    valid = np.array([1, 1, 1, 0, 1, 1, 1, 0, 1], bool)
    velocity, acceleration = derivatives(x, valid, t)
    # 0-1, 1-2 and 20-21: not through the frame without a face, not over 4-20, not within one time.
    np.testing.assert_array_equal(velocity[:, 0], [1, 1, 1])
    assert acceleration.tolist() == [[0]]
    t[7] += 1e-4  # as stage one stores the second frame of one time
    np.testing.assert_array_equal(derivatives(x, np.ones(9, bool), t)[0].max(), 97)
    still = derivatives(x[:1], valid[:1], t[:1])
    assert [part.shape for part in still] == [(0, 1), (0, 1)]


def test_widths_and_values_of_the_summaries() -> None:
    rng = np.random.default_rng(1)
    one = clip(rng)
    assert [part.shape for part in time_average(one)] == [(6 + 136,)]
    mean = one.appearance.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(time_average(one, "appearance")[0], mean)
    assert [len(part) for part in statistics(one)] == [5 * 6, 5 * 136, 5 * 136, 5 * 136]
    np.testing.assert_allclose(statistics(one, "appearance")[0][:6], mean)
    position, velocity, acceleration = statistics(clip(rng, 1), "landmarks")
    assert position.any() and not velocity.any() and not acceleration.any()
    slow = statistics(replace(one, timestamp=one.timestamp * 2), "landmarks")
    # Half the speed: positions stay, velocities halve, accelerations are a quarter.
    for fast, part, times in zip(statistics(one, "landmarks"), slow, (1, 2, 4), strict=True):
        np.testing.assert_allclose(fast, times * part)


def test_a_narrow_block_is_not_lost_among_wide_ones() -> None:
    """Six columns that tell all, beside 2,040 of landmarks that tell nothing."""
    clips, score = stills(120)
    moving = [
        replace(clip(np.random.default_rng(k), 8), appearance=np.repeat(c.appearance, 8, axis=0))
        for k, c in enumerate(clips)
    ]
    model = PooledRegressor("statpool").fit(moving[:80], score[:80])
    assert stats.pearsonr(model.predict(moving[80:]), score[80:]).statistic > 0.8
    assert model.predict([]).shape == (0,)


def test_a_strength_that_is_given_is_not_chosen() -> None:
    clips, score = stills(60)
    by_hand = make_pipeline(StandardScaler(), Ridge(50.0))
    x = np.stack([c.appearance[0] for c in clips]).astype(np.float64)
    by_hand.fit(x, (score - score.mean()) / score.std())
    model = PooledRegressor("meanpool", streams="appearance", alpha="50").fit(clips, score)
    assert model.strength == {"alpha": 50.0}
    expected = by_hand.predict(x) * score.std() + score.mean()
    np.testing.assert_allclose(model.predict(clips), expected)

    svr = {"regressor": "svr", "c": 2, "gamma": 0.6, "epsilon": 0.2}
    model = PooledRegressor("meanpool", streams="appearance", **svr).fit(clips, score)
    assert model.strength == pytest.approx({"C": 2.0, "gamma": 0.1})
    partly = PooledRegressor("meanpool", regressor="svr", c=7).fit(clips, score)
    assert partly.strength["C"] == 7

    rough, fine = (
        PooledRegressor("statpool", regressor="boosting", leaves=leaves, rate=0.1)
        for leaves in (2, 16)
    )
    assert not np.allclose(*(m.fit(clips, score).predict(clips) for m in (rough, fine)))


def test_what_cannot_be_is_refused() -> None:
    clips, score = stills(10)
    for options, said in (
        ({"kind": "maxpool"}, "meanpool, statpool"),
        ({"kind": "meanpool", "regressor": "boosting"}, "ridge, svr"),
        ({"kind": "meanpool", "stream": "appearance"}, "no option 'stream'"),
        ({"kind": "meanpool", "streams": "sound"}, "both, appearance, landmarks"),
        ({"kind": "meanpool", "c": 1}, "regressor, streams; with ridge alpha"),
        ({"kind": "meanpool", "alpha": "much"}, "alpha must be a number above 0, not 'much'"),
        ({"kind": "meanpool", "alpha": 0}, "above 0"),
        ({"kind": "statpool", "regressor": "boosting", "leaves": 1}, "from 2 on"),
    ):
        with pytest.raises(ModelError) as caught:
            PooledRegressor(**options)
        assert said in f"{caught.value} {caught.value.hint}"
    model = PooledRegressor("meanpool")
    with pytest.raises(RuntimeError, match="fitted"):
        model.predict(clips)
    with pytest.raises(ValueError, match=r"\(10,\)"):
        model.fit(clips, score[:9])
    with pytest.raises(ValueError, match="finite"):
        model.fit(clips, [np.nan, *score[1:]])
    with pytest.raises(ValueError, match="at least 3 clips"):
        model.fit(clips[:2], score[:2])


def test_alpha_is_that_of_ridge_fitted_without_one_group_at_a_time() -> None:
    rng = np.random.default_rng(4)
    for columns in (3, 40):
        x, y = rng.normal(size=(24, columns)), rng.normal(size=24)
        group = rng.integers(6, size=24)
        alphas = np.array([0.1, 10.0, 1000.0])
        errors = []
        for alpha in alphas:
            folds = [(group != g, group == g) for g in np.unique(group)]
            found = [Ridge(alpha).fit(x[a], y[a]).predict(x[b]) - y[b] for a, b in folds]
            errors.append(float((np.concatenate(found) ** 2).sum()))
        assert ridge_alpha(x, y, group, alphas) == alphas[int(np.argmin(errors))]
        alone = np.arange(24)
        assert ridge_alpha(x, y, alone, ALPHAS) == pytest.approx(RidgeCV(ALPHAS).fit(x, y).alpha_)


@pytest.mark.parametrize(("kind", "regressor"), ALL)
def test_what_is_chosen_heeds_persons_and_single_clips_change_nothing(
    kind: str, regressor: str
) -> None:
    """The label is the person's own: with persons on both sides the best is to learn by heart."""
    rng = np.random.default_rng(5)
    person = np.repeat(np.arange(20), 4)
    faces = rng.normal(size=(20, 6))
    clips = []
    for k in person:
        one = clip(rng, 1)
        clips.append(
            replace(one, appearance=(faces[k] + 0.05 * rng.normal(size=(1, 6))).astype(np.float16))
        )
    score = rng.normal(size=20)[person]

    def fitted(group: list[str] | None) -> PooledRegressor:
        model = PooledRegressor(kind, regressor=regressor, streams="appearance")
        return model.fit(clips, score, None, group)

    plain, alone = fitted(None), fitted([str(k) for k in range(80)])
    np.testing.assert_array_equal(plain.predict(clips), alone.predict(clips))
    heeding = fitted([str(k) for k in person])
    spread = [float(np.std(model.predict(clips))) for model in (plain, heeding)]
    assert spread[1] < spread[0]
