"""The trained predictor as plain arrays: two set-encoder branches and a value net (NumPy; PyTorch only trains it).

branch b: e_i = item_out_b relu(item_in_b u_i),  g_b = post_out_b relu(post_in_b sum_or_mean_i e_i)
          u_i = [p_i, features_i, 1], p_i the item's plan (b = x) or scenario (b = xi) variables;
          a coupled network's scenario branch sees u_i = [p_i, plan_i, p_i plan_i', features_i, 1]
value:    label_offset + label_scale * (value_out . relu(value_x g_x + value_xi g_xi + value_bias) + out_bias)
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.problem import AffineMap, Features, TwoStageProblem
from mallocgame.errors import InputError, MissingExtraError, TraceError
from mallocgame.files import read_json, write_bytes, write_text

F64 = npt.NDArray[np.float64]
FORMAT = "mallocgame.neur2ro.network"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSize:
    """Layer widths: per-item hidden and output, post-aggregation hidden and output of each branch, value hidden."""

    x_item: tuple[int, int] = (32, 16)
    x_post: tuple[int, int] = (64, 8)
    xi_item: tuple[int, int] = (32, 16)
    xi_post: tuple[int, int] = (64, 8)
    value: int = 8
    aggregation: Literal["mean", "sum"] = "mean"
    coupled: bool = False


#: The sizes of the published knapsack and capital-budgeting networks, of the published scripts' defaults, and ours:
#: the scenario branch also sees each item's plan, still exactly affine per item when either side is fixed.
PRESETS = {
    "knapsack": NetworkSize(),
    "capital-budgeting": NetworkSize(x_item=(16, 4), x_post=(32, 8), xi_item=(16, 4), xi_post=(32, 8)),
    "script": NetworkSize(x_item=(16, 8), x_post=(64, 2), xi_item=(16, 8), xi_post=(64, 2), value=4),
    "coupled": NetworkSize(x_item=(16, 8), x_post=(24, 8), xi_item=(24, 16), xi_post=(48, 8), value=16, coupled=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEncoder:
    """Weights of one set encoder, float64; the last input column of ``item_in`` multiplies a constant 1."""

    item_in: F64  # [h1, variable inputs + features + 1]
    item_out: F64  # [d, h1]
    post_in: F64  # [h2, d]
    post_out: F64  # [g, h2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Trained weights and what they were trained on."""

    x: SetEncoder
    xi: SetEncoder
    value_x: F64  # [h, g]
    value_xi: F64  # [h, g]
    value_bias: F64  # [h]
    value_out: F64  # [h]
    out_bias: float
    aggregation: Literal["mean", "sum"]
    coupled: bool  # whether the scenario branch sees the plan
    about: dict[str, Any]  # problem, size, data and training settings, errors: JSON

    def bind(self, problem: TwoStageProblem, device: str | None = None) -> "BoundNetwork":
        """Return the network of one instance: static features folded into biases.

        Args:
            problem: the instance.
            device: a PyTorch device that predictions run on ("cuda"), or None: NumPy.

        Raises:
            InputError: the network was trained on another problem, or the device cannot be used.
        """
        if device is None:
            return BoundNetwork(self, problem.features())
        from mallocgame.baselines.neur2ro.device import DeviceNetwork

        return DeviceNetwork(self, problem.features(), device)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundBranch:
    """A branch as a function of one vector v: hidden_i = relu(inputs_i p_i(v) + bias_i); the rest as above."""

    inputs: F64  # [items, h1, width]
    bias: F64  # [items, h1]
    post: F64  # [h2, h1]: post_in @ item_out (times 1 / items for the mean)
    out: F64  # [g, h2]
    mapping: AffineMap

    def items(self, v: F64) -> F64:
        """Return the per-item pre-activations, float64[B, items, h1], of v float64[B, size]."""
        return np.asarray(np.einsum("bnw,nhw->bnh", self.mapping(v), self.inputs) + self.bias)

    def encode(self, v: F64) -> F64:
        """Return g, float64[B, g]."""
        hidden = np.maximum(self.items(v), 0.0).sum(axis=1) @ self.post.T
        return np.asarray(np.maximum(hidden, 0.0) @ self.out.T)


class BoundNetwork:
    """A network at one instance's features; predicts second-stage values in the problem's own units."""

    device_name = ""  # where predictions run; "" is NumPy

    def __init__(self, network: Network, features: Features) -> None:
        self.network = network
        self.features = features
        self.offset, self.scale = features.label_offset, features.label_scale
        wx, wxi = features.x_map.width, features.xi_map.width
        inputs = {"x": wx, "xi": wxi + (wx + wx * wxi if network.coupled else 0)}
        statics = {"x": features.x_items, "xi": features.xi_items}
        for side, branch in (("x", network.x), ("xi", network.xi)):
            expected = inputs[side] + statics[side].shape[1] + 1
            if branch.item_in.shape[1] != expected:
                raise InputError(
                    f"this network was trained on another problem: its {side} branch takes {branch.item_in.shape[1]} "
                    f"numbers an item; expected {expected}"
                )
        if network.coupled and features.x_map.items != features.xi_map.items:
            raise InputError("a coupled network needs as many scenario items as plan items")
        self._static = {
            side: statics[side] @ branch.item_in[:, inputs[side] : -1].T + branch.item_in[:, -1]
            for side, branch in (("x", network.x), ("xi", network.xi))
        }
        self.x = self._branch(network.x, features.x_map, network.x.item_in[None, :, :wx], self._static["x"])

    def _branch(self, branch: SetEncoder, mapping: AffineMap, inputs: F64, bias: F64) -> BoundBranch:
        share = 1.0 / len(bias) if self.network.aggregation == "mean" else 1.0
        return BoundBranch(
            inputs=np.broadcast_to(inputs, (len(bias), *inputs.shape[1:])),
            bias=bias,
            post=share * branch.post_in @ branch.item_out,
            out=branch.post_out,
            mapping=mapping,
        )

    def _coupled_parts(self) -> tuple[F64, F64, F64]:
        """Return the weights of scenario, plan and product inputs: [h, wxi], [h, wx], [h, wx, wxi]."""
        wx, wxi = self.features.x_map.width, self.features.xi_map.width
        weights = self.network.xi.item_in
        products = weights[:, wxi + wx : wxi + wx + wx * wxi].reshape(-1, wx, wxi)
        return weights[:, :wxi], weights[:, wxi : wxi + wx], products

    def scenario_branch(self, x: F64) -> BoundBranch:
        """Return the scenario branch as a function of xi at plan ``x`` (float64[nx])."""
        width = self.features.xi_map.width
        inputs, bias = self.network.xi.item_in[None, :, :width], self._static["xi"]
        if self.network.coupled:
            scenario, plan, product = self._coupled_parts()
            points = self.features.x_map(x)  # [items, wx]
            inputs = scenario[None] + np.einsum("na,hab->nhb", points, product)
            bias = bias + points @ plan.T
        return self._branch(self.network.xi, self.features.xi_map, inputs, bias)

    def plan_branch(self, xi: F64) -> BoundBranch:
        """Return the scenario branch of a coupled network as a function of x at scenario ``xi`` (float64[nxi])."""
        scenario, plan, product = self._coupled_parts()
        points = self.features.xi_map(xi)  # [items, wxi]
        inputs = plan[None] + np.einsum("nb,hab->nha", points, product)
        return self._branch(self.network.xi, self.features.x_map, inputs, self._static["xi"] + points @ scenario.T)

    def head(self, from_x: F64, from_xi: F64) -> F64:
        """Return scaled predictions of paired encodings, float64[..., g] each."""
        n = self.network
        hidden = np.maximum(from_x @ n.value_x.T + from_xi @ n.value_xi.T + n.value_bias, 0.0)
        return np.asarray(hidden @ n.value_out + n.out_bias)

    def predict(self, xs: F64, xis: F64) -> F64:
        """Return predicted second-stage values of all pairs, float64[A, B], for xs[A, nx] and xis[B, nxi]."""
        codes = self.x.encode(xs)
        if self.network.coupled:
            scaled = np.stack([self.head(codes, self.plan_branch(xi).encode(xs)) for xi in xis], axis=1)
        else:
            scaled = self.head(codes[:, None], self.scenario_branch(xs[0]).encode(xis)[None])
        return self.offset + self.scale * scaled

    def gradient(self, x: F64, xis: F64) -> F64:
        """Return the derivative of the prediction with respect to each scenario, float64[B, nxi], for one plan."""
        n, branch = self.network, self.scenario_branch(x)
        items = branch.items(xis)
        post = np.maximum(items, 0.0).sum(axis=1) @ branch.post.T
        pre = np.maximum(post, 0.0) @ branch.out.T @ n.value_xi.T + self.x.encode(x[None]) @ n.value_x.T + n.value_bias
        back = ((pre > 0) * n.value_out) @ n.value_xi @ branch.out * (post > 0)
        per_item = np.einsum("bnh,nhw->bnw", (back @ branch.post)[:, None] * (items > 0), branch.inputs)
        return np.asarray(self.scale * per_item.reshape(len(xis), -1) @ branch.mapping.matrix)


def save_network(network: Network, folder: str | Path) -> None:
    """Write ``network.safetensors`` and ``network.json`` into ``folder`` (created if absent), each atomically.

    Raises:
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors.numpy import save
    except ImportError:
        raise MissingExtraError("safetensors", "robust") from None
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in _arrays(network).items()}
    write_bytes(target / "network.safetensors", save(arrays))
    head = {
        "format": FORMAT,
        "version": VERSION,
        "aggregation": network.aggregation,
        "coupled": network.coupled,
        "about": network.about,
    }
    write_text(target / "network.json", json.dumps(head, indent=2) + "\n")


def _arrays(network: Network) -> dict[str, F64]:
    arrays = {
        f"{side}.{field.name}": getattr(getattr(network, side), field.name)
        for side in ("x", "xi")
        for field in fields(SetEncoder)
    }
    for name in ("value_x", "value_xi", "value_bias", "value_out"):
        arrays[name] = getattr(network, name)
    arrays["out_bias"] = np.array([network.out_bias])
    return arrays


def load_network(folder: str | Path) -> Network:
    """Read what ``save_network`` wrote.

    Raises:
        TraceError: a file is absent, is not what it claims, or holds arrays of shapes that do not fit together.
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise MissingExtraError("safetensors", "robust") from None
    head_path, data_path = Path(folder) / "network.json", Path(folder) / "network.safetensors"
    head = read_json(head_path)
    if not isinstance(head, dict) or head.get("format") != FORMAT or head.get("version") != VERSION:
        raise TraceError(head_path, None, f"expected format {FORMAT!r}, version {VERSION}")
    try:
        with np.errstate(invalid="ignore"):  # what is not finite is refused below
            data = {name: np.asarray(array, np.float64) for name, array in load_file(data_path).items()}
        sides = {
            side: SetEncoder(**{f.name: data[f"{side}.{f.name}"] for f in fields(SetEncoder)}) for side in ("x", "xi")
        }
        values = {name: data[name] for name in ("value_x", "value_xi", "value_bias", "value_out")}
        network = Network(
            x=sides["x"],
            xi=sides["xi"],
            **values,
            out_bias=float(data["out_bias"][0]),
            aggregation=cast(Literal["mean", "sum"], head["aggregation"]),
            coupled=bool(head["coupled"]),
            about=head["about"],
        )
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise TraceError(data_path, None, f"not a network that this version can read ({error})") from None
    _check(network, data_path)
    return network


def _check(network: Network, path: Path) -> None:
    for side in (network.x, network.xi):
        chain = (side.item_in.shape[0], side.item_out.shape[0], side.post_in.shape[0])
        if (side.item_out.shape[1], side.post_in.shape[1], side.post_out.shape[1]) != chain:
            raise TraceError(path, None, "the layers of a branch do not fit together")
    width = len(network.value_bias)
    shapes = (network.value_x.shape, network.value_xi.shape, network.value_out.shape)
    expected = ((width, len(network.x.post_out)), (width, len(network.xi.post_out)), (width,))
    if shapes != expected or not all(np.isfinite(array).all() for array in _arrays(network).values()):
        raise TraceError(path, None, "the value layer does not fit the branches, or holds numbers that are not finite")


def describe(size: NetworkSize) -> dict[str, Any]:
    """Return the widths as JSON."""
    return asdict(size)
