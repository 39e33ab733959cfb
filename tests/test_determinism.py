"""The same seed gives the same answer in another process, with other hashes and another number of threads."""

from tests.benchmarks.determinism import VARIANTS, elsewhere


def test_processes_agree() -> None:
    names = ("anneal", "evolution", "greedy", "search")
    first, second = (elsewhere(names, variant) for variant in VARIANTS)
    assert first == second
    assert len(set(first.values())) == len(first)
