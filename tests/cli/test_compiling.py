"""What commands that compile again take from a trace."""

from dataclasses import replace

import pytest

from mallocgame.cli.compiling import assumptions_in, assumptions_of, target_of
from mallocgame.errors import InputError
from tests.toy import toy_trace

TRACE = replace(
    toy_trace(),
    provenance={
        "chip": "v5e",
        "topology": "v5e:2x2",
        "mesh": "data=4",
        "given_trip_counts": ("while.3=7",),
        "given_branch_weights": ("conditional.1=0.25,0.75",),
        "assumed_trip_counts": ("while.9=5",),
        "ici_bytes_per_second": 9e10,
    },
)


def test_a_program_is_compiled_again_for_the_chips_of_its_trace() -> None:
    assert target_of(TRACE) == ("v5e:2x2", "data=4")
    assert target_of(TRACE, chip="v6e") == ("v6e", "")
    assert target_of(TRACE, chip="v6e:2x2", mesh="data=2,model=2") == ("v6e:2x2", "data=2,model=2")
    assert target_of(replace(TRACE, provenance={"chip": "v4"})) == ("v4", "")


def test_what_the_user_said_of_a_program_is_said_again() -> None:
    known = assumptions_in(TRACE)
    assert known == assumptions_of(["while.3=7"], ["conditional.1=0.25,0.75"], 90.0)
    assert known.trip_counts == {"while.3": 7}
    assert assumptions_in(toy_trace()) == assumptions_of(None, None, None)


def test_bad_assumptions_are_refused() -> None:
    with pytest.raises(InputError, match="--trip-count x=0"):
        assumptions_of(["x=0"], None, None)
    with pytest.raises(InputError, match="--branch-weights a=0,1"):
        assumptions_of(None, ["a=0,1"], None)
    with pytest.raises(InputError, match="--ici-gbps -1"):
        assumptions_of(None, None, -1.0)
