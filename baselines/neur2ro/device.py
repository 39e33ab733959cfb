"""The network's predictions and gradients on a PyTorch device (a GPU), for methods that rank many plans by it.

Weights and points are float32 there; plans, scenarios and results are float64 NumPy as everywhere else.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.network import BoundNetwork, Network, SetEncoder
from mallocgame.baselines.neur2ro.problem import AffineMap, Features
from mallocgame.errors import InputError, MissingExtraError

F64 = npt.NDArray[np.float64]
BLOCK = 2**25  # numbers of the largest array at once: 128 MiB


def import_torch() -> Any:
    """Return the ``torch`` module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "robust") from None
    return torch


def open_device(name: str) -> Any:
    """Return the ``torch.device`` of this name, after one allocation on it.

    Raises:
        InputError: PyTorch knows no such device, or this machine has none.
        MissingExtraError: PyTorch is not installed.
    """
    torch = import_torch()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used; expected cpu, cuda, cuda:1, mps ... ({reason})") from None
    return device


class DeviceNetwork(BoundNetwork):
    """A bound network that predicts on a device; what programs embed of it is as before."""

    def __init__(self, network: Network, features: Features, device: str) -> None:
        super().__init__(network, features)
        self._torch = import_torch()
        self.device = open_device(device)
        self.device_name = str(self.device)
        self._maps = {"x": self._map(features.x_map), "xi": self._map(features.xi_map)}
        self._statics = {side: self._put(static) for side, static in self._static.items()}
        self._sides = {side: self._branch_weights(side, branch) for side, branch in self._branches().items()}
        self._value = [self._put(w) for w in (network.value_x, network.value_xi, network.value_bias, network.value_out)]
        self._width = (features.x_map.width, features.xi_map.width)

    def _branches(self) -> dict[str, SetEncoder]:
        return {"x": self.network.x, "xi": self.network.xi}

    def _put(self, array: F64) -> Any:
        return self._torch.as_tensor(np.asarray(array, np.float32), device=self.device)

    def _map(self, mapping: AffineMap) -> tuple[Any, Any, int]:
        return self._put(mapping.matrix.T), self._put(mapping.offset), mapping.width

    def _branch_weights(self, side: str, branch: SetEncoder) -> tuple[Any, Any, Any]:
        """Return item_in [h1, inputs], post [h1, h2] (the aggregation's factor in it) and out [h2, g]."""
        items = len(self._static[side])
        share = 1.0 / items if self.network.aggregation == "mean" else 1.0
        post = share * branch.post_in @ branch.item_out
        return self._put(branch.item_in), self._put(post.T), self._put(branch.post_out.T)

    def _points(self, side: str, v: Any) -> Any:
        matrix, offset, width = self._maps[side]
        return (v @ matrix + offset).reshape(len(v), -1, width)

    def _pooled(self, side: str, hidden: Any) -> Any:
        _, post, out = self._sides[side]
        relu = self._torch.relu
        return relu(relu(hidden).sum(dim=-2) @ post) @ out

    def _scaled(self, xs: Any, xis: Any) -> Any:
        """Return scaled predictions of all pairs, [A, B], of device tensors [A, nx] and [B, nxi]."""
        (wx, wxi), weights = self._width, self._sides["xi"][0]
        plans, scenarios = self._points("x", xs), self._points("xi", xis)
        from_x = self._pooled("x", plans @ self._sides["x"][0][:, :wx].T + self._statics["x"])
        hidden = scenarios @ weights[:, :wxi].T + self._statics["xi"]
        if self.network.coupled:
            hidden = hidden[None] + (plans @ weights[:, wxi : wxi + wx].T)[:, None]
            products = weights[:, wxi + wx : wxi + wx + wx * wxi].reshape(-1, wx, wxi)
            for b in range(wxi):
                slope = (plans @ products[:, :, b].T)[:, None]
                hidden = hidden + slope * scenarios[None, :, :, b : b + 1]
        else:
            hidden = hidden[None]
        value_x, value_xi, bias, out = self._value
        code = self._pooled("xi", hidden)
        pre = (from_x @ value_x.T)[:, None] + code @ value_xi.T + bias
        return self._torch.relu(pre) @ out + self.network.out_bias

    def predict(self, xs: F64, xis: F64) -> F64:
        """Return predicted second-stage values of all pairs, float64[A, B], for xs[A, nx] and xis[B, nxi]."""
        scenarios = self._put(xis)
        each = max(1, len(xis)) * self._statics["xi"].numel()
        step = max(1, BLOCK // each)
        with self._torch.no_grad():
            parts = [self._scaled(self._put(xs[a : a + step]), scenarios).cpu() for a in range(0, len(xs), step)]
        scaled = np.concatenate([part.numpy() for part in parts]) if parts else np.zeros((0, len(xis)))
        return np.asarray(self.offset + self.scale * scaled.astype(np.float64))

    def gradient(self, x: F64, xis: F64) -> F64:
        """Return the derivative of the prediction with respect to each scenario, float64[B, nxi], for one plan."""
        scenarios = self._put(xis).requires_grad_()
        self._scaled(self._put(x[None]), scenarios).sum().backward()
        return np.asarray(self.scale * scenarios.grad.cpu().numpy().astype(np.float64))
