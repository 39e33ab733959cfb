"""A predictor inside a server: the same bits as for a recorded trace, a file that survives, bits that survive drift."""

import importlib.util
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mallocgame.baselines.paging import (
    HintSource,
    Job,
    PageTrace,
    Predictor,
    chat,
    choose_one_bit,
    cyclic,
    from_ids,
    from_keys,
    get_policy,
    record,
    shadow_bits,
    simulate,
    watched_bits,
    zipf,
)
from mallocgame.baselines.paging.predict.boosting import BoostingConfig, fit
from mallocgame.baselines.paging.predict.drift import CONSTANT, choose_sources
from mallocgame.baselines.paging.predict.predictor import _flat_trees, _score
from mallocgame.baselines.paging.selection import served
from mallocgame.errors import InputError, TraceError

SMALL = BoostingConfig(num_trees=12, depth=3, min_leaf_weight=5.0)


@pytest.fixture(scope="module")
def chats() -> PageTrace:
    return chat(num_sessions=150, seed=1)


@pytest.fixture(scope="module")
def on_prompts(chats: PageTrace) -> Predictor:
    return Predictor.fit(chats, 1500, config=SMALL)


def test_flat_trees_score_as_the_model_does() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((4000, 5), dtype=np.float32) - 0.5) * 1000
    labels = ((values[:, 1] > 0) ^ (values[:, 3] > 40)).astype(np.uint8)
    model = fit(values, labels, SMALL)
    assert (model.feature < 0)[:, 0].sum() < SMALL.num_trees  # some trees do split
    splits, leaves = _flat_trees(model)
    rows = np.concatenate((values[:500], np.stack([e[:5] for e in model.edges], axis=1), np.zeros((1, 5), np.float32)))
    got = np.array([_score(row, splits, leaves, model.base) for row in rows], np.float32)
    assert np.array_equal(got, model.score(rows))


def test_bits_one_by_one_are_those_of_the_recorded_trace() -> None:
    keys = [f"expert:{page}" for page in zipf(num_pages=300, num_requests=4000, seed=2).pages.tolist()]
    trace = from_keys(keys)
    predictor = Predictor.fit(trace[:2000], 40, config=SMALL)
    wanted = predictor.bits(trace)
    got = []
    for key in keys:
        got.append(predictor.predict(key))
        predictor.observe(key)
    assert got == wanted.tolist()
    assert 0 < wanted.sum() < 4000
    predictor.forget()
    assert predictor.predict(keys[0]) == wanted[0]


def test_bits_of_prompts_are_those_of_the_recorded_trace(chats: PageTrace, on_prompts: Predictor) -> None:
    assert chats.prompts is not None
    assert chats.prompts.seconds is not None
    on_prompts.forget()
    got, starts = [], chats.prompts.starts.tolist()
    for number, second in enumerate(chats.prompts.seconds.tolist()):
        blocks = chats.pages[starts[number] : starts[number + 1]].tolist()
        got.append(on_prompts.predict(blocks, second=second, tokens=int(chats.prompts.tokens[number])))
        on_prompts.observe(blocks, second=second)
    wanted = on_prompts.bits(chats)
    assert np.array_equal(np.concatenate(got), wanted)
    assert 0 < wanted.sum() < wanted.size
    assert on_prompts.predict([]).size == 0
    with pytest.raises(InputError, match="list of block hashes"):
        on_prompts.predict("abc")


def test_a_saved_predictor_is_the_same_on_another_trace(tmp_path: Path, on_prompts: Predictor) -> None:
    on_prompts.save(tmp_path / "p.npz")
    loaded, other = Predictor.load(tmp_path / "p.npz"), chat(num_sessions=60, seed=5)
    assert np.array_equal(loaded.bits(other), on_prompts.bits(other))
    assert (loaded.num_frames, loaded.block_tokens, loaded.closure) == (1500, 16, on_prompts.closure)
    source = HintSource(bits=f"model:{tmp_path / 'p.npz'}")
    assert np.array_equal(source.hints(other, 1500, get_policy("lru0")), loaded.bits(other))
    assert source.judge_from(other) == 0  # it was trained on another trace
    with pytest.raises(InputError, match="was fitted on prompts; trace has single requests"):
        loaded.bits(from_ids(np.arange(300)))
    with pytest.raises(InputError, match="cannot write"):
        on_prompts.save(tmp_path / "absent" / "p.npz")


def test_damaged_files_are_refused_and_nothing_is_unpickled(tmp_path: Path, on_prompts: Predictor) -> None:
    good, bad = tmp_path / "p.npz", tmp_path / "bad.npz"
    on_prompts.save(good)
    bad.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(TraceError, match="not a saved predictor"):
        Predictor.load(bad)
    bad.write_bytes(b"\x80\x04N.")
    with pytest.raises(TraceError, match="not a saved predictor"):
        Predictor.load(bad)
    np.savez(bad, about=np.array([{"a": 1}], object))
    with pytest.raises(TraceError, match="not a saved predictor"):
        Predictor.load(bad)
    with np.load(good) as data:
        arrays = dict(data)
    for change in ({"feature": np.full_like(arrays["feature"], 99)}, {"value": arrays["value"][:, :3]}):
        np.savez(bad, **(arrays | change))
        with pytest.raises(TraceError, match="not a saved predictor"):
            Predictor.load(bad)
    about = json.loads(arrays["about"].tobytes()) | {"format": 99}
    np.savez(bad, **(arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}))
    with pytest.raises(TraceError, match="a predictor of format 99"):
        Predictor.load(bad)
    with pytest.raises(TraceError, match="No such file"):
        Predictor.load(tmp_path / "absent.npz")
    assert zipfile.is_zipfile(good)


def test_too_few_requests_to_fit() -> None:
    with pytest.raises(InputError, match="too few to train on"):
        Predictor.fit(from_ids([1, 2, 3]), 2)


def drifting(seed: int) -> PageTrace:
    """First pages die young, then a loop just larger than the cache: what was learnt turns wrong."""
    rng = np.random.default_rng(seed)
    young = [page for i in range(6000) for page in ([int(rng.integers(0, 40))] if i % 2 else [1000 + i, 1000 + i])]
    return from_ids(np.array(young + [5000 + i % 60 for i in range(3000)] + young[:3000]))


def test_watched_bits_follow_the_best_source_and_see_no_future() -> None:
    trace, k = drifting(3), 50
    watched = watched_bits(trace, k, refit_requests=1000)
    assert watched.bits.size == trace.num_requests
    assert watched.chosen[0] == CONSTANT  # nothing is known yet
    assert len(set(watched.chosen)) > 1
    jobs = [
        Job(policy=get_policy("lru0"), num_frames=k, hints=watched.bits),
        Job(policy=get_policy("lru"), num_frames=k),
    ]
    told, lru = (result.faults for result in simulate(trace, jobs))
    assert told < 0.9 * lru
    cut = 8000
    other = PageTrace(
        name="other", pages=np.concatenate((trace.pages[:cut], trace.pages[:3000])), num_pages=trace.num_pages
    )
    assert np.array_equal(watched_bits(other, k, refit_requests=1000).bits[:cut], watched.bits[:cut])
    with pytest.raises(InputError, match="at least 500 requests"):
        watched_bits(trace, k, refit_requests=10)


def test_a_window_is_chosen_by_the_windows_before_it_alone() -> None:
    rng = np.random.default_rng(2)
    gains = rng.random((4, 30)) * 100
    choices = choose_sources(gains, 0.8)
    assert choices[0] == 0
    assert len(set(choices)) > 1
    for window in range(30):
        changed = gains.copy()
        changed[:, window:] = rng.random((4, 30 - window)) * 1000
        assert choose_sources(changed, 0.8)[: window + 1] == choices[: window + 1]
    assert set(choose_sources(np.full((4, 30), 7.0), 0.8)) == {0}


def test_little_is_lost_where_nothing_can_be_learned() -> None:
    """Independent requests with equal chances: no bit is better than another, and LRU0 must stay near LRU."""
    trace, k = from_ids(np.random.default_rng(1).integers(0, 200, 9000)), 100
    jobs = [
        Job(policy=get_policy("lru0"), num_frames=k, hints=watched_bits(trace, k, refit_requests=1500).bits),
        Job(policy=get_policy("lru"), num_frames=k),
    ]
    told, lru = (result.faults for result in simulate(trace, jobs))
    assert told < 1.02 * lru


def test_shadow_bits_say_what_the_shadow_would_let_go() -> None:
    loop = cyclic(num_pages=60, num_requests=3000)
    bits = shadow_bits(loop, 50, "lirs")
    told = record(loop, get_policy("lru0"), 50, hints=bits).faults
    assert told <= 1.1 * record(loop, get_policy("lirs"), 50).faults < 0.5 * record(loop, get_policy("lru"), 50).faults
    once = from_ids([*range(100), *range(10)])
    assert shadow_bits(once, 20, "2q")[:100].all()  # every page is new
    assert shadow_bits(once, 20, "s3-fifo")[20:100].all()  # likewise, once the cache is full
    with pytest.raises(InputError, match="need a shadow"):
        shadow_bits(once, 20, "fifo")


def test_the_choice_is_made_on_the_prefix_alone(chats: PageTrace) -> None:
    half = chats.prompt_start(chats.num_requests // 2)
    bits = np.random.default_rng(0).integers(0, 2, chats.num_requests).astype(np.uint8)
    choice = choose_one_bit(chats, 1500, bits, half)
    changed = bits.copy()
    changed[half:] = 0
    again = choose_one_bit(chats, 1500, changed, half)
    assert again.scores == choice.scores
    assert choice.policy.name == max(choice.scores, key=choice.scores.__getitem__)
    result = simulate(chats, [Job(policy=choice.policy, num_frames=1500, hints=choice.hints, judge_from=half)])[0]
    assert 0 < served(chats, result) < result.num_requests
    loop = cyclic(num_pages=60, num_requests=4000)  # LRU and the constant bit have no hits: only a partner helps
    loop_choice = choose_one_bit(loop, 50, np.zeros(4000, np.uint8), 2000)
    assert loop_choice.scores["lru0+lru"] == 0 < max(loop_choice.scores.values())
    assert loop_choice.policy.name != "lru0+lru"


def test_the_example_of_a_kv_cache_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parents[3] / "examples" / "kv_cache_eviction.py"
    if not path.exists():
        pytest.skip("examples are not in the wheel")
    spec = importlib.util.spec_from_file_location("kv_cache_eviction", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    saved = [int(found) for found in re.findall(r": (\d+) of", capsys.readouterr().out)]
    assert len(saved) == 2
    assert saved[1] > saved[0]
    assert len(path.read_text().splitlines()) <= 60
