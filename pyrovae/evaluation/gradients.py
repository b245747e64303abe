"""How noisy a gradient estimate is, and whether two estimates have the same mean.

Estimates are draws (n, P), with the P parameters as one vector.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parameters_to_vector

from pyrovae.programs.pair import Programs, modules, pair
from pyrovae.scores import mean


def gradients(loss: Any, programs: Programs, parameters: Iterable[Tensor], inputs: Iterable[tuple[Any, ...]]) -> Tensor:
    """The gradient of a loss at each of the inputs; each is a draw with new noise. (n, P)

    Args:
        loss: one of `objectives`, or one of Pyro's estimators, whose unit is the sum over the data.
        programs: model and guide.
        parameters: the parameters of the gradient.
        inputs: the programs' arguments for each draw.
    """
    found, chosen = [], list(parameters)
    touched = [*chosen, *(each for owner in modules(programs) for each in owner.parameters())]
    for args in inputs:
        _clear(touched)
        loss.loss_and_grads(*pair(programs), *args)
        found.append(parameters_to_vector([torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]))
    _clear(touched)
    return torch.stack(found)


def _clear(parameters: Iterable[Tensor]) -> None:
    for each in parameters:
        each.grad = None


def variance(draws: Tensor) -> dict[str, float]:
    """tr Cov(g) = E |g - E g|^2, and its standard error."""
    n = len(draws)
    return mean((draws - draws.mean(0)).double().square().sum(1) * n / (n - 1))


def difference(draws: Tensor, others: Tensor, towards: Tensor) -> dict[str, float]:
    """Whether two estimates have the same mean, by z = difference of the means / its standard error.

    along: z of the gradient's component along a direction; rms: the root mean square of z over all parameters that
    vary, which is 1 if the means are equal.

    Args:
        draws, others: (n, P) and (m, P).
        towards: a direction (P,), independent of both.
    """
    z = _z(draws, others)
    along = _z(*(each.double() @ F.normalize(towards.double(), dim=0) for each in (draws, others)))
    return {"along": along.item(), "rms": math.sqrt(z[z.isfinite()].square().mean())}


def _z(a: Tensor, b: Tensor) -> Tensor:
    return (a.mean(0) - b.mean(0)) / (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
