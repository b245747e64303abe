"""Seconds from the start of a process to a test ELBO on MNIST: PYROVAE_DATA=... nox -s bench -- whole --help.

Everything counts (imports, data, compilation, training) but the evaluation, which is the same for all: after each
epoch, one sample of -ELBO for each of the 10 000 test images, binarised once and for all. All train MLP 784-400-20 on
dynamically binarised images with Adam, batch 128, and a learning rate that falls from 3e-3 as a cosine.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from theirs import mlp, pyro_programs, pythae_vae
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TARGETS = (-108.0, -104.0, -102.0)


def mnist(train: bool) -> Tensor:
    """The bytes, (N, 1, 28, 28)."""
    from torchvision.datasets import MNIST

    return MNIST(os.environ["PYROVAE_DATA"], train=train).data[:, None]


class Clock:
    """Prints seconds since the start and the test ELBO after each epoch, and leaves its own time out."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, encoder: Callable[[Tensor], Tensor], decoder: Callable[[Tensor], Tensor]) -> None:
        now = time.time()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            test = torch.bernoulli(mnist(train=False) / 255)
            loc, log_variance = encoder(test).chunk(2, -1)
            logits = decoder(loc + (0.5 * log_variance).exp() * torch.randn_like(loc)).reshape(test.shape)
            kl = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
            score = -torch.nn.functional.binary_cross_entropy_with_logits(logits, test, reduction="sum") - kl
        print(json.dumps({"seconds": now - self.start, "elbo": score.item() / len(test)}), flush=True)
        self.start += time.time() - now


def ours(clock: Clock, epochs: int, compile: Any = "auto") -> None:
    import pyrovae
    from pyrovae.training.rates import cosine

    torch.manual_seed(0)
    vae = pyrovae.VAE((1, 28, 28), 20)
    splits = pyrovae.data.load("mnist", valid=0)
    for _ in pyrovae.Training(
        vae, splits, epochs=epochs, learning_rate=3e-3, lr_schedule=cosine, compile=compile, seed=0
    ):
        clock(vae.encoder, vae.decoder)


def rate(epoch: float, epochs: int) -> float:
    return 3e-3 * (1 + math.cos(math.pi * epoch / epochs)) / 2


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return mlp(784, 400, 40), nn.Sequential(mlp(20, 400, 784), nn.Unflatten(1, (1, 28, 28)))


def pyros(clock: Clock, epochs: int) -> None:
    """Pyro's VAE example: its SVI over a DataLoader, here of images in memory."""
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import PyroOptim

    encoder, decoder = networks()
    loader = DataLoader(TensorDataset(mnist(train=True)), batch_size=128, shuffle=True)
    optimizer = PyroOptim(torch.optim.Adam, {"lr": 3e-3})
    svi, done = SVI(*pyro_programs(encoder, decoder, 20, 3), optimizer, Trace_ELBO()), 0
    for _ in range(epochs):
        for (x,) in loader:
            for each in optimizer.optim_objs.values():
                each.param_groups[0]["lr"] = rate(done / len(loader), epochs)
            svi.step(torch.bernoulli(x / 255))
            done += 1
        clock(encoder, decoder)


def pythaes(clock: Clock, epochs: int) -> None:
    """pythae's trainer, its data set binarised as it is read."""
    from pythae.data.datasets import BaseDataset, DatasetOutput
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Binarised(BaseDataset):
        def __getitem__(self, row: int) -> Any:
            return DatasetOutput(data=torch.bernoulli(self.data[row]), labels=self.labels[row])

    encoder, decoder = networks()
    x, model = mnist(train=True) / 255, pythae_vae(encoder, decoder, 20, (1, 28, 28))
    with tempfile.TemporaryDirectory() as folder:
        options = BaseTrainerConfig(
            folder, num_epochs=epochs, per_device_train_batch_size=128, learning_rate=3e-3, no_cuda=True
        )
        trainer = BaseTrainer(model, Binarised(x, torch.zeros(len(x))), training_config=options)
        trainer.prepare_training()
        for epoch in range(epochs):
            trainer.optimizer.param_groups[0]["lr"] = rate(epoch, epochs)
            trainer.train_step(epoch + 1)
            clock(encoder, decoder)


WAYS: dict[str, Any] = {
    "ours, auto": ours,
    "ours, compiled": partial(ours, compile=True),
    "ours, eager": partial(ours, compile=False),
    "Pyro's SVI, as in its example": pyros,
    "pythae's trainer": pythaes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=max(1, torch.get_num_threads() // 2))
    parser.add_argument("--way", choices=list(WAYS), help="train this way only, and say what was reached when")
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.way and asked.start:
        WAYS[asked.way](Clock(asked.start), asked.epochs)
        return
    header = " | ".join(f"ELBO {target:g}" for target in TARGETS)
    print(f"{asked.threads} threads, {asked.epochs} epochs, seconds\n\n| way | {header} | last ELBO | at |")
    print("|---|" + "--:|" * (len(TARGETS) + 2), flush=True)
    for way in [asked.way] if asked.way else WAYS:
        arguments = ["--way", way, "--epochs", str(asked.epochs), "--threads", str(asked.threads)]
        command = [sys.executable, __file__, *arguments, "--start", str(time.time())]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ)
        records = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
        if not records:
            print(f"| {way} | failed |")
            continue
        reached = [next((r["seconds"] for r in records if r["elbo"] >= target), None) for target in TARGETS]
        cells = " | ".join("not reached" if each is None else f"{each:.1f}" for each in reached)
        print(f"| {way} | {cells} | {records[-1]['elbo']:.2f} | {records[-1]['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
