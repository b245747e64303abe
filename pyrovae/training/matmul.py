"""The precision of float32 matrix products."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyrovae import checks

# The values of torch.set_float32_matmul_precision; "auto" chooses one of them by `fastest_matmul`.
MATMULS = ("auto", "highest", "high", "medium")


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Inside, float32 matrix products have this precision ("highest", "high", "medium"); outside, the one before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fastest_matmul(parameters: Iterable[Tensor], batch_size: int) -> tuple[str, float, float]:
    """Return "medium" if it is as exact as "highest" and faster, else "highest"; the error of "medium"; its speed-up.

    "medium" allows bfloat16, which some processors use and others do not. It is tried on the product of a batch with
    the largest matrix of these parameters, and accepted if its largest error is below 1e-5 of the result's largest
    value (float32 rounding gives about 1e-6, bfloat16 1e-2).
    """
    matrices = [value for value in parameters if value.ndim == 2 and value.dtype == torch.float32]
    if not matrices:
        return "highest", 0.0, 1.0
    w = max(matrices, key=Tensor.numel).detach()
    with torch.random.fork_rng():
        x = torch.randn(batch_size, w.shape[1], device=w.device)
    exact = x.double() @ w.double().T
    seconds, errors = {}, {}
    for name in ("highest", "medium"):
        with matmul_precision(name):
            errors[name] = ((x @ w.T - exact).abs().max() / exact.abs().max()).item()
            seconds[name] = min(_seconds(x, w) for _ in range(20))
    speed = seconds["highest"] / seconds["medium"]
    return ("medium" if errors["medium"] < 1e-5 and speed > 1.1 else "highest"), errors["medium"], speed


def _seconds(x: Tensor, w: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(5):
        y = x @ w.T
    y.sum().item()  # waits for a GPU
    return time.perf_counter() - start


def chosen(asked: str, parameters: Iterable[Tensor], batch_size: int) -> tuple[str, dict[str, float]]:
    """The precision to use, and the measurements on which the choice is based.

    Args:
        asked: one of MATMULS.
        parameters: the programs' parameters.
        batch_size: rows of a step.
    """
    checks.member("matmul", asked, MATMULS)
    if asked != "auto":
        return asked, {}
    fastest, error, speed = fastest_matmul(parameters, batch_size)
    return fastest, {"medium_error": error, "medium_speed": speed}
