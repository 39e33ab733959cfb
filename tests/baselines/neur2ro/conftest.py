"""Shared pieces: the optional packages, a small random network, the public data."""

import numpy as np
import pytest

pytest.importorskip("highspy")

from mallocgame.baselines.neur2ro.network import Network, SetEncoder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/baselines/neur2ro" in str(item.path):
            item.add_marker(pytest.mark.robust)


def random_network(rng: np.random.Generator, x_width: int, xi_width: int, features: int, *, coupled: bool) -> Network:
    """Return untrained weights: h1 = 5, d = 4, h2 = 6, g = 3, value 4."""

    def branch(inputs: int) -> SetEncoder:
        return SetEncoder(
            item_in=rng.normal(size=(5, inputs + features + 1)),
            item_out=rng.normal(size=(4, 5)),
            post_in=rng.normal(size=(6, 4)),
            post_out=rng.normal(size=(3, 6)),
        )

    return Network(
        x=branch(x_width),
        xi=branch(xi_width + (x_width + x_width * xi_width if coupled else 0)),
        value_x=rng.normal(size=(4, 3)),
        value_xi=rng.normal(size=(4, 3)),
        value_bias=rng.normal(size=4),
        value_out=rng.normal(size=4),
        out_bias=0.3,
        aggregation="mean",
        coupled=coupled,
        about={},
    )
