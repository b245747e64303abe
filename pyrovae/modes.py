"""Context managers for the modes of modules."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def mode(modules: Iterable[nn.Module], training: bool) -> Iterator[None]:
    """Inside, the modules are in training or in evaluation mode; afterwards each part returns to its own mode."""
    modules = list(modules)
    parts = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for part, was in parts.items():
            part.training = was


@contextmanager
def channels_last(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, modules with convolutions hold their kernels in the fastest memory layout (channels last).

    Outside, they use torch's default layout, as Pyro's store does, which would copy any other layout.
    """
    convolutional = [module for module in modules if any(value.ndim == 4 for value in module.parameters())]
    for module in convolutional:
        module.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for module in convolutional:
            module.to(memory_format=torch.contiguous_format)
