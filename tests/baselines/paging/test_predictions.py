"""Bits, errors put into them, predictors, and what a predictor may not see."""

import numpy as np
import pytest

from mallocgame.baselines.paging import (
    HintSource,
    Job,
    PageTrace,
    as_bits,
    count_errors,
    discard_bits,
    flip,
    flip_adversarial,
    from_ids,
    get_policy,
    learned_bits,
    moe_decode,
    next_use,
    online_bits,
    phase_bits,
    pleco,
    popu,
    read_mooncake,
    simulate,
    threshold_bits,
    zipf,
)
from mallocgame.baselines.paging.policy import Hint
from mallocgame.baselines.paging.predict.arrivals import learned_arrivals
from mallocgame.baselines.paging.predict.boosting import BoostingConfig, fit
from mallocgame.baselines.paging.predict.features import feature_names, page_features
from mallocgame.errors import InputError
from tests.baselines.paging.paths import CONVERSATION
from tests.baselines.paging.reference import belady

SMALL = BoostingConfig(num_trees=15, depth=3)


def bursts(num_requests: int, seed: int) -> PageTrace:
    """Half of the requests go to a few hot pages, the others to pages that come twice in a row and never again."""
    rng = np.random.default_rng(seed)
    ids, fresh = [], 1000
    while len(ids) < num_requests:
        if rng.random() < 0.5:
            ids.append(int(rng.integers(0, 40)))
        else:
            ids += [fresh, fresh]
            fresh += 1
    return from_ids(np.array(ids[:num_requests]))


def test_exact_bits_on_a_worked_example() -> None:
    trace = from_ids([0, 1, 2, 0, 1])  # k = 2: at 2 OPT drops page 1, at the second 1 it drops the dead 2 or 0
    assert discard_bits(trace, 2).tolist()[:2] == [0, 1]
    assert phase_bits(trace, 2).tolist() == [0, 1, 1, 1, 1]
    assert phase_bits(from_ids([0, 1, 0, 2, 1, 3]), 2).tolist() == [1, 0, 1, 1, 1, 1]


def test_flips_come_at_their_rates() -> None:
    bits = (np.arange(200_000) % 4 == 0).astype(np.uint8)
    wrong = flip(bits, 0.1, 0.4, seed=1)
    errors = count_errors(wrong, bits)
    assert abs(errors.eta1 / 150_000 - 0.1) < 0.005
    assert abs(errors.eta0 / 50_000 - 0.4) < 0.01
    assert np.array_equal(flip(bits, 1.0, 1.0), 1 - bits)
    assert np.array_equal(flip(bits, 0.0, 0.0), bits)


def test_adversarial_flips_hurt_more_than_random_ones() -> None:
    trace, k = zipf(num_pages=2000, num_requests=60_000, seed=1), 100
    truth = discard_bits(trace, k)
    for zeros, ones in ((0.01, 0.0), (0.0, 0.01)):
        placed, random = flip_adversarial(truth, next_use(trace), zeros, ones), flip(truth, zeros, ones, seed=3)
        assert count_errors(placed, truth).eta1 == round(zeros * np.sum(truth == 0))
        assert count_errors(placed, truth).eta0 == round(ones * np.sum(truth == 1))
        jobs = [Job(policy=get_policy("fwa0"), num_frames=k, hints=bits) for bits in (placed, random)]
        costs = [result.faults for result in simulate(trace, jobs)]
        assert costs[0] > costs[1]


def test_bad_bits_have_one_clear_line() -> None:
    with pytest.raises(InputError, match="got 2 bits for 3 requests"):
        as_bits([0, 1], 3)
    with pytest.raises(InputError, match="a bit is 0 or 1, got 2 at request 1"):
        as_bits([0, 2], 2)
    with pytest.raises(InputError, match=r"lies in \[0, 1\]"):
        flip(np.zeros(3, np.uint8), 1.5, 0.0)
    with pytest.raises(InputError, match="a teacher needs no predictions"):
        discard_bits(from_ids([1]), 1, teacher="fwa0")
    with pytest.raises(InputError, match="no bits called 'magic'"):
        HintSource(bits="magic").hints(from_ids([1]), 1, get_policy("fwa0"))
    with pytest.raises(InputError, match="needs predicted arrivals"):
        HintSource(bits="online").hints(from_ids([1]), 1, get_policy("blind-oracle"))
    with pytest.raises(InputError, match="too few to train on"):
        HintSource(bits="learned").hints(from_ids([1]), 1, get_policy("blind-oracle"))


def test_popu_and_pleco_follow_their_formulas() -> None:
    pages = np.random.default_rng(2).integers(0, 25, 300).tolist()
    trace = from_ids(pages)
    got_popu, got_pleco = popu(trace), pleco(trace)
    for t in range(1, len(pages) + 1):
        count = pages[:t].count(pages[t - 1])
        assert got_popu[t - 1] == t + t // count
        ages = [t - i + 1 for i in range(1, t + 1)]
        weights = [(age + 10) ** -1.8 * np.exp(-age / 670) for age in ages]
        mine = sum(w for w, page in zip(weights, pages[:t], strict=True) if page == pages[t - 1])
        assert got_pleco[t - 1] == t - 1 + int(sum(weights) / mine * (1 + 1e-12))


def test_threshold_bits() -> None:
    predicted = np.array([5, 30, 12])
    assert threshold_bits(predicted, 10).tolist() == [0, 1, 0]
    assert threshold_bits(predicted, 10, 0.3).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="must be > 0"):
        threshold_bits(predicted, 10, 0.0)


def test_boosting_learns_an_interaction_that_one_split_cannot() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((4000, 5), dtype=np.float32)
    labels = ((values[:, 1] > 0.5) ^ (values[:, 3] > 0.3)).astype(np.uint8)
    model = fit(values[:3000], labels[:3000], BoostingConfig(num_trees=40, depth=3, min_leaf_weight=5.0))
    right = (model.score(values[3000:]) > 0) == labels[3000:]
    assert right.mean() > 0.97
    noise = fit(values[:3000, :1], labels[:3000], SMALL)
    assert abs(((noise.score(values[3000:, :1]) > 0) == labels[3000:]).mean() - 0.55) < 0.1


def test_boosting_refuses_bad_rows() -> None:
    with pytest.raises(InputError, match="one label a row"):
        fit(np.zeros((3, 2), np.float32), np.zeros(2, np.uint8))
    with pytest.raises(InputError, match="finite"):
        fit(np.full((3, 2), np.nan, np.float32), np.zeros(3, np.uint8))


def test_features_and_predictors_do_not_look_ahead() -> None:
    trace = bursts(6000, seed=1)
    part = PageTrace(name="part", pages=trace.pages[:4000], num_pages=trace.num_pages)
    assert np.array_equal(page_features(trace)[:4000], page_features(part))
    assert np.array_equal(online_bits(trace, 30)[:4000], online_bits(part, 30))
    assert np.array_equal(popu(trace)[:4000], popu(part))
    # Learned bits of requests 3000 to 4000 do not change with what comes after request 4000.
    whole = learned_bits(trace, 30, train_share=0.5, config=SMALL)
    other = PageTrace(
        name="other", pages=np.concatenate((trace.pages[:4000], trace.pages[:2000])), num_pages=trace.num_pages
    )
    assert np.array_equal(whole.bits[:4000], learned_bits(other, 30, train_share=0.5, config=SMALL).bits[:4000])
    assert not whole.bits[:3000].any()
    assert len(feature_names(trace)) == page_features(trace).shape[1]


def test_learned_and_online_bits_beat_lru_where_pages_die_young() -> None:
    trace, k = bursts(40_000, seed=2), 45
    learned = learned_bits(trace, k, config=SMALL)
    jobs = [
        Job(policy=get_policy("lru"), num_frames=k, judge_from=learned.train_requests),
        Job(policy=get_policy("lru0"), num_frames=k, hints=learned.bits, judge_from=learned.train_requests),
        Job(policy=get_policy("lru0"), num_frames=k, hints=online_bits(trace, k), judge_from=learned.train_requests),
        Job(policy=get_policy("opt"), num_frames=k, hints=next_use(trace), judge_from=learned.train_requests),
    ]
    lru, with_learned, with_online, opt = (result.faults for result in simulate(trace, jobs))
    assert opt <= with_learned < 0.75 * lru
    assert with_online < 0.9 * lru


def test_learned_phase_bits_and_short_prefixes() -> None:
    trace = moe_decode(num_tokens=60, num_layers=4, num_experts=16, seed=1)
    bits = learned_bits(trace, 100, Hint.PHASE, config=SMALL).bits
    assert bits.shape == (trace.num_requests,)
    with pytest.raises(InputError, match="too few to train on"):
        learned_bits(from_ids([1, 2, 3]), 2)
    with pytest.raises(InputError, match="training share"):
        learned_bits(trace, 2, train_share=1.0)


@pytest.mark.skipif(not CONVERSATION.exists(), reason="shared data absent")
def test_a_learned_bit_beats_every_classical_policy_on_the_conversation_trace() -> None:
    trace, k = read_mooncake(CONVERSATION), 1827
    learned = learned_bits(trace, k, config=BoostingConfig(num_trees=30))
    names = ("lru", "fifo", "clock", "lfu", "arc", "s3-fifo", "sieve", "w-tinylfu", "marker", "lru0")
    jobs = [
        Job(
            policy=get_policy(name),
            num_frames=k,
            hints=learned.bits if name == "lru0" else None,
            judge_from=learned.train_requests,
        )
        for name in names
    ]
    *classical, one_bit = (result.faults for result in simulate(trace, jobs))
    assert one_bit < min(classical)


def test_bits_of_the_reference_on_random_traces() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        pages, k = rng.integers(0, 8, 40).tolist(), int(rng.integers(1, 6))
        bits = discard_bits(from_ids(pages), k)
        # The number of evictions is fixed by the number of faults, whatever the ties.
        faults, truth = belady(pages, k)
        assert int(bits.sum()) == sum(truth) == faults - min(k, len(set(pages)))


def test_least_squares_and_learned_arrivals() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3000, 3), dtype=np.float32)
    target = (4 * values[:, 0] - 2 * (values[:, 2] > 0.5)).astype(np.float32)
    config = BoostingConfig(num_trees=60, depth=4, min_leaf_weight=5.0, squares=True)
    model = fit(values[:2000], target[:2000], config)
    assert np.abs(model.score(values[2000:]) - target[2000:]).mean() < 0.25
    trace, k = bursts(12_000, seed=3), 45
    predicted = learned_arrivals(trace, 6000)
    assert (predicted > np.arange(trace.num_requests)).all()
    cut = PageTrace(name="cut", pages=trace.pages[:9000], num_pages=trace.num_pages)
    assert np.array_equal(learned_arrivals(cut, 6000), predicted[:9000])  # no look-ahead
    jobs = [
        Job(policy=get_policy("relaxed-belady"), num_frames=k, hints=predicted, judge_from=6000),
        Job(policy=get_policy("lru"), num_frames=k, judge_from=6000),
    ]
    learned, lru = (result.faults for result in simulate(trace, jobs))
    assert learned < 0.9 * lru
