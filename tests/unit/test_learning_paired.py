"""Two models on the same rows: worse is told from unlucky, as often wrongly as said, and the gates stand on that."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from penstock.craft.learning import gates, slices
from penstock.craft.learning.gates import GateResult, Judged
from penstock.craft.learning.losses import row_losses
from penstock.craft.learning.measured import Measured
from penstock.craft.learning.metrics import measure
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.paired import Comparison, beside, compare
from penstock.craft.learning.slices import weak
from penstock.ground.errors import DefinitionError
from penstock.spec.models import METRICS, Gate, Kind, metric, no_leakage


def noisy(y: np.ndarray, truth: np.ndarray, seed: int, spread: float) -> Outcomes:
    odds = np.log(truth / (1 - truth)) + np.random.default_rng(seed).normal(0, spread, len(y))
    return Outcomes("binary", y, 1 / (1 + np.exp(-odds)))


def pair(n: int, seed: int, *, worse: float = 0.0) -> tuple[Outcomes, Outcomes]:
    """Two models that know the truth with independent noise, the candidate with more of it."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(1, 2, n).clip(0.01, 0.99)
    y = (rng.uniform(size=n) < truth).astype(np.int8)
    return noisy(y, truth, 2 * seed + 10_000, 0.5 + worse), noisy(y, truth, 2 * seed + 10_001, 0.5)


def regressions(n: int, seed: int, *, worse: float = 0.0) -> tuple[Outcomes, Outcomes]:
    rng = np.random.default_rng(seed)
    y = rng.gamma(2, 3, n) + 1
    return tuple(Outcomes("regression", y, y + rng.normal(size=n) * (1 + w)) for w in (worse, 0.0))  # type: ignore[return-value]


def classes(n: int, seed: int, *, worse: float = 0.0) -> tuple[Outcomes, Outcomes]:
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=(n, 3))
    y = (np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)).cumsum(axis=1)[:, :-1]
    y = (y < rng.uniform(size=(n, 1))).sum(axis=1)
    made = []
    for w in (worse, 0.0):
        p = np.exp(odds + rng.normal(size=(n, 3)) * (0.4 + w))
        made.append(Outcomes("multiclass", y, p / p.sum(axis=1, keepdims=True), ("a", "b", "c")))
    return made[0], made[1]


def rankings(n: int, seed: int, *, worse: float = 0.0) -> tuple[Outcomes, Outcomes]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    group = np.arange(n) // 8
    return tuple(Outcomes("ranking", y, y + rng.normal(size=n) * (1.5 + w), group=group) for w in (worse, 0.0))  # type: ignore[return-value]


PAIRS = {"binary": pair, "multiclass": classes, "regression": regressions, "ranking": rankings}
TESTS = 100


# -- paired tests ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", PAIRS)
def test_equal_models_are_called_worse_about_as_often_as_said(kind: Kind) -> None:
    """5 % are allowed: of 100 pairs 5 are expected, and more than 14 come once in ten thousand times."""
    alarms = dict.fromkeys(METRICS[kind], 0)
    for seed in range(TESTS):
        candidate, other = PAIRS[kind](320, seed)
        for name in METRICS[kind]:
            if name in ("median_error", "calibration_error") and seed >= 25:
                continue
            found = compare(name, candidate, other)
            assert found is not None
            alarms[name] += found.worse
    assert {m: n for m, n in alarms.items() if n > (6 if m in ("median_error", "calibration_error") else 14)} == {}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_much_worse_model_is_found_out(kind: Kind) -> None:
    skipped = {"calibration_error", "bias"}
    for name in sorted(set(METRICS[kind]) - skipped):
        found = [compare(name, *PAIRS[kind](2000, seed, worse=3.0)) for seed in range(5)]
        assert all(f is not None and f.worse and f.difference < 0 and f.high < 0 for f in found), name


def test_a_mean_is_compared_by_the_paired_t_test() -> None:
    candidate, other = regressions(300, 5)
    apart = np.abs(candidate.p - candidate.y) - np.abs(other.p - other.y)
    found = compare("mae", candidate, other, by=0.02)
    told = stats.ttest_1samp(apart, 0.02, alternative="greater")
    assert found is not None
    assert found.p == pytest.approx(told.pvalue, rel=1e-9)
    assert -found.high == pytest.approx(told.confidence_interval(0.95).low)
    assert found.difference == pytest.approx(-apart.mean())


def test_areas_are_compared_by_delong() -> None:
    candidate, other = pair(3000, 3, worse=0.1)
    true = candidate.y == 1
    above = []
    for o in (candidate, other):
        kernel = (o.p[true][:, None] > o.p[~true][None, :]) + 0.5 * (o.p[true][:, None] == o.p[~true][None, :])
        above.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    up, down = above[0][0] - above[1][0], above[0][1] - above[1][1]
    z = up.mean() / np.sqrt(up.var(ddof=1) / len(up) + down.var(ddof=1) / len(down))
    found = compare("roc_auc", candidate, other)
    assert found is not None
    assert (found.test, found.p) == ("DeLong", pytest.approx(stats.norm.cdf(z), rel=0.02))


def test_hits_are_compared_by_mcnemar() -> None:
    candidate, other = pair(500, 3)
    mine, theirs = (candidate.p >= 0.5) == candidate.y, (other.p >= 0.5) == other.y
    won, lost = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    found = compare("accuracy", candidate, other)
    assert found is not None
    assert (found.test, found.p) == ("McNemar", pytest.approx(stats.binomtest(won, won + lost, 0.5, alternative="less").pvalue))
    assert found.low < found.difference < found.high
    assert compare("accuracy", candidate, other, by=0.01).test == "paired t"  # type: ignore[union-attr]


def test_a_model_beside_itself_is_not_worse() -> None:
    for kind, make in PAIRS.items():
        one, _ = make(160, 1)
        for name in METRICS[kind]:  # type: ignore[index]
            found = compare(name, one, one)
            assert found is not None
            assert (found.difference, found.worse, found.p) == (0.0, False, 1.0), name


def test_bias_is_compared_by_its_distance_from_nothing() -> None:
    y = np.random.default_rng(0).normal(10, 1, 400)
    noise = np.random.default_rng(1).normal(0, 0.1, 400)
    low, straight = Outcomes("regression", y, y - 1 + noise), Outcomes("regression", y, y + noise)
    found = compare("bias", low, straight)
    assert found is not None
    assert found.worse
    assert found.difference == pytest.approx(-1, abs=0.02)
    assert not compare("bias", straight, low).worse  # type: ignore[union-attr]


def test_rows_of_a_group_count_once() -> None:
    candidate, other = regressions(60, 8, worse=0.3)
    alone = compare("mae", candidate, other)
    again = [Outcomes("regression", np.repeat(o.y, 20), np.repeat(o.p, 20), group=np.repeat(np.arange(60), 20)) for o in (candidate, other)]
    naive = compare("mae", *(Outcomes("regression", o.y, o.p) for o in again))
    assert alone is not None
    assert naive is not None
    assert compare("mae", *again).p == pytest.approx(alone.p)  # type: ignore[union-attr]
    assert naive.p < alone.p / 10
    drawn = compare("median_error", *again)
    assert drawn is not None
    assert drawn.high - drawn.low > 0.2


def test_other_rows_cannot_be_compared() -> None:
    candidate, other = pair(50, 1)
    with pytest.raises(DefinitionError, match="same rows"):
        compare("brier", candidate, other.take(np.arange(40)))
    with pytest.raises(DefinitionError, match="equal labels"):
        compare("brier", candidate, Outcomes("binary", 1 - other.y, other.p))
    lone = Outcomes("binary", np.ones(9), np.full(9, 0.5))
    assert compare("roc_auc", lone, lone) is None


def test_two_measurements_without_rows_are_compared_by_their_intervals() -> None:
    one = Measured(500, 200, {"roc_auc": 0.70}, {}, {"roc_auc": (0.65, 0.75)})
    two = Measured(900, 300, {"roc_auc": 0.72}, {}, {"roc_auc": (0.68, 0.76)})
    found = beside("roc_auc", one, two)
    assert isinstance(found, Comparison)
    assert not found.worse
    assert found.p == pytest.approx(stats.norm.cdf(-0.02 / (np.hypot(0.1, 0.08) / 2 / stats.norm.ppf(0.975))))
    assert beside("roc_auc", one, Measured(900, 300, {"roc_auc": 0.99}, {}, {"roc_auc": (0.985, 0.995)})).worse  # type: ignore[union-attr]
    assert beside("roc_auc", one, Measured(900, 300, {"roc_auc": 0.99})) is None


# -- gates ----------------------------------------------------------------------------------------------------------
def judged(o: Outcomes, by: pa.Table | None = None) -> Judged:
    by = by if by is not None else pa.table({})
    return Judged(o, slices.evaluate(o, by), by=by)


def judge(gate: Gate, candidate: Judged, production: Judged | None = None) -> GateResult:
    (result,) = gates.evaluate([gate], candidate, production)
    assert json.loads(json.dumps(result.as_record()))["passed"] is result.passed
    return result


def test_a_difference_that_noise_explains_passes_and_says_so() -> None:
    candidate, other = next(p for p in (pair(300, s) for s in range(50)) if -0.02 < compare("roc_auc", *p).difference < -0.005)  # type: ignore[union-attr]
    result = judge(metric("roc_auc").not_below("production"), judged(candidate), judged(other))
    assert result.passed
    assert result.margin is not None
    assert result.margin < 0
    assert "which noise explains (DeLong, p = 0." in result.reason


def test_a_worse_model_fails_and_shows_by_how_much_and_where() -> None:
    candidate, other = pair(3000, 1, worse=1.0)
    result = judge(metric("roc_auc").not_below("production", by=0.01), judged(candidate), judged(other))
    assert not result.passed
    assert result.comparison is not None
    assert result.comparison.high < -0.01
    assert result.comparison.p < 0.05
    assert len(result.sample) == 20
    lost = row_losses(candidate) - row_losses(other)
    assert list(result.sample) == np.argsort(-lost, kind="stable")[:20].tolist()


@pytest.mark.parametrize("by", [0.0, 0.05])
def test_the_gate_fails_exactly_if_the_upper_end_is_below_what_is_allowed(by: float) -> None:
    for seed in range(30):
        candidate, other = pair(400, seed, worse=0.6)
        result = judge(metric("log_loss").not_below("production", by=by), judged(candidate), judged(other))
        assert result.comparison is not None
        assert result.passed is (result.comparison.high >= -by)


def test_slices_are_compared_on_their_rows_with_a_level_for_all() -> None:
    candidate, other = pair(4000, 2)
    where = np.array(["a", "b", "c", "d"])[np.arange(4000) % 4]
    spoilt = np.where(where == "c", 1 - candidate.p, candidate.p)
    by = pa.table({"place": where})
    gate = metric("roc_auc", slice="place").not_below("production", by=0.02)
    assert judge(gate, judged(candidate, by), judged(other, by)).passed
    result = judge(gate, judged(Outcomes("binary", candidate.y, spoilt), by), judged(other, by))
    assert (result.passed, result.slice, result.column) == (False, "c", "place")
    assert result.rows == "CAST(\"place\" AS VARCHAR) = 'c'"
    assert set(where[list(result.sample)]) == {"c"}
    assert result.reason.startswith("place c: ")


def test_many_equal_slices_are_not_called_worse() -> None:
    by = pa.table({"place": np.arange(1500) % 12})
    gate = metric("brier", slice="place").not_below("production")
    failed = 0
    for seed in range(25):
        candidate, other = pair(1500, seed)
        failed += not judge(gate, judged(candidate, by), judged(other, by)).passed
    assert failed <= 6  # one or two are expected; without the correction eleven


def test_a_star_holds_for_declared_slices_and_weak_ones() -> None:
    rng = np.random.default_rng(3)
    o, _ = pair(6000, 3)
    far, place = rng.integers(0, 3000, 6000), np.array(["x", "y"])[rng.integers(0, 2, 6000)]
    y = np.where(far > 2000, rng.integers(0, 2, 6000), o.y)
    spoilt = Outcomes("binary", y, o.p)
    by = pa.table({"place": place})
    found = weak(spoilt, pa.table({"far": far}))
    assert len(found) == 1
    candidate = Judged(spoilt, slices.evaluate(spoilt, by), {}, found, (), by)
    gate = metric("roc_auc", slice="*") >= 0.6
    result = judge(gate, candidate)
    assert (result.passed, result.slice, result.rows, result.column) == (False, found[0].condition, found[0].condition, "")
    assert set((far[list(result.sample)] > 1900).tolist()) == {True}
    assert judge(gate, Judged(spoilt, candidate.evaluation, {}, (), (), by)).passed
    compared = judge(metric("brier", slice="*").not_below("production"), candidate, judged(Outcomes("binary", y, o.p), by))
    assert compared.passed
    better = Outcomes("binary", y, np.where(far > 2000, 0.5, o.p))
    assert judge(metric("brier", slice="*").not_below("production"), candidate, judged(better, by)).slice == found[0].condition
    nowhere = judge(gate, Judged(o, slices.evaluate(o, pa.table({}))))
    assert (nowhere.passed, nowhere.reason) == (True, "there is no slice with enough rows")


def test_figures_are_held_to_bounds() -> None:
    o, _ = pair(60, 1)
    found = Judged(o, slices.evaluate(o, pa.table({})), {"train_rows": 900, "feature_drift": 0.3, "least_class": None})
    assert judge(metric("train_rows") >= 500, found).passed
    drifted = judge(metric("feature_drift") <= 0.25, found)
    assert (drifted.passed, drifted.reason) == (False, "0.3 is above 0.25 by 0.05")
    assert not judge(metric("least_class") >= 0.1, found).passed
    assert not judge(metric("train_rows").not_below("production"), found, found).passed


class Leak:
    def __init__(self, *columns: str, rows: tuple[tuple[str, int], ...] = ()) -> None:
        self.kind, self.columns, self.reason, self.rows = "copy", columns, "it equals the label", rows


def test_leaks_fail_unless_their_columns_are_allowed() -> None:
    o, _ = pair(60, 1)
    evaluation = slices.evaluate(o, pa.table({}))

    def found(*leaks: Leak) -> Judged:
        return Judged(o, evaluation, leaks=leaks)

    assert judge(no_leakage(), found()).passed
    result = judge(no_leakage(), found(Leak("paid", rows=(("train", 4), ("test", 7))), Leak("a", "b")))
    assert (result.passed, result.reason, result.sample, result.value) == (False, "paid: it equals the label; and 1 more", (7,), 2.0)
    assert judge(no_leakage(allow=["paid"]), found(Leak("paid"))).passed
    assert not judge(no_leakage(allow=["paid"]), found(Leak("paid", "other"))).passed
    assert not judge(no_leakage(allow=["paid"]), found(Leak())).passed
    nobody = judge(no_leakage(), Judged(o, evaluation))
    assert (nobody.passed, nobody.reason) == (False, "nobody looked for leaks")


def test_a_failed_bound_shows_the_worst_rows() -> None:
    o, _ = pair(200, 1)
    result = judge(metric("brier") <= 0.01, judged(o))
    assert not result.passed
    assert measure(o).values["brier"] == result.value
    assert result.sample[0] == int(np.argmax(np.abs(o.p - o.y)))
