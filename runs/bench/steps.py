"""Milliseconds a training step, ours beside others', in one interleaved run: python runs/bench/steps.py --help.

Every way of training lives in a process of its own (its peak memory is then its own, and no two share a Pyro store);
in each round each runs some steps while the others wait. All train the same network with Adam on the same 60 000 rows
of 784 bytes, binarised afresh in each step, but for pythae and the DataLoader loop, which train as they are used: on
greys.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.infer
import pyro.optim
import torch
from theirs import pyro_programs, pythae_vae
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyrovae
from pyrovae.networks import MLP, Conv

NETS: dict[str, tuple[tuple[int, ...], int, Any]] = {
    "mlp": ((784,), 20, partial(MLP, hidden=400)),
    "wide": ((784,), 50, partial(MLP, hidden=2000)),
    "conv": ((1, 28, 28), 20, partial(Conv, channels=(32, 64))),
}
Step = Callable[[], None]


def vae(net: str) -> pyrovae.VAE:
    event_shape, latent_dim, network = NETS[net]
    torch.manual_seed(0)
    return pyrovae.VAE(event_shape, latent_dim, encoder=network, decoder=network)


def data(net: str) -> Tensor:
    """As many bytes as MNIST has, a fifth of them not 0."""
    source = torch.Generator().manual_seed(0)
    parts = (torch.randint(0, 1280, (600, 784), dtype=torch.int16, generator=source) - 1024 for _ in range(100))
    return torch.cat([part.clamp_(min=0).to(torch.uint8) for part in parts]).reshape(60000, *NETS[net][0])


def rows(batch: int) -> Callable[[], Tensor]:
    """The numbers of the next batch's rows, epoch after epoch."""
    left: list[Tensor] = []

    def following() -> Tensor:
        if not left:
            left.extend(torch.randperm(60000).split(batch)[: 60000 // batch])
        return left.pop()

    return following


def binary(x: Tensor) -> Tensor:
    return torch.bernoulli(x / 255)


def by_hand(made: pyrovae.VAE, x: Tensor) -> Tensor:
    """What one writes without Pyro: -ELBO per datum, the KL in closed form."""
    loc, log_variance = made.encoder(x).chunk(2, -1)
    z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
    cross_entropy = binary_cross_entropy_with_logits(made.decoder(z), x, reduction="sum")
    return (cross_entropy + 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()) / len(x)


def hand_written(net: str, batch: int, compiled: bool = False, autocast: bool = False) -> Step:
    made, held, following = vae(net), data(net), rows(batch)
    if compiled and net == "conv":
        made.to(memory_format=torch.channels_last)

    def loss(index: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return by_hand(made, binary(held[index]))

    if compiled:
        loss = torch.compile(loss)
    optimizer = torch.optim.Adam(made.parameters(), 1e-3, fused=compiled)

    def step() -> None:
        optimizer.zero_grad()
        value = loss(following())
        value.backward()
        optimizer.step()
        value.item()

    return step


def data_loader(net: str, batch: int) -> Step:
    """The loop of most tutorials: images through PIL and ToTensor, row by row."""
    from PIL import Image
    from torchvision.transforms import ToTensor

    made, held, convert = vae(net), data(net).reshape(-1, 28, 28).numpy(), ToTensor()

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(held)

        def __getitem__(self, row: int) -> Tensor:
            return convert(Image.fromarray(held[row], mode="L"))

    loader = torch.utils.data.DataLoader(Images(), batch, shuffle=True, drop_last=True)
    optimizer, batches = torch.optim.Adam(made.parameters(), 1e-3), iter(loader)

    def step() -> None:
        nonlocal batches
        try:
            x = next(batches)
        except StopIteration:
            x = next(batches := iter(loader))
        optimizer.zero_grad()
        value = by_hand(made, x.reshape(batch, *NETS[net][0]))
        value.backward()
        optimizer.step()
        value.item()

    return step


def pyros(net: str, batch: int) -> Step:
    """Pyro's own SVI on such programs, with the data in memory."""
    made, held, following = vae(net), data(net), rows(batch)
    programs = pyro_programs(made.encoder, made.decoder, NETS[net][1], len(NETS[net][0]))
    optimizer = pyro.optim.PyroOptim(torch.optim.Adam, {"lr": 1e-3})
    svi = pyro.infer.SVI(*programs, optimizer, pyro.infer.Trace_ELBO())
    return lambda: svi.step(binary(held[following()])) and None


def pythaes(net: str, batch: int) -> Callable[[int], None]:
    """pythae's trainer; it runs whole epochs, of so many steps."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    made, held = vae(net), data(net) / 255
    model = pythae_vae(made.encoder, made.decoder, NETS[net][1], NETS[net][0])

    def run(steps: int) -> None:
        part = BaseDataset(held[: steps * batch], torch.zeros(steps * batch))
        with tempfile.TemporaryDirectory() as folder:
            options = BaseTrainerConfig(
                folder, num_epochs=1, per_device_train_batch_size=batch, learning_rate=1e-3, no_cuda=True
            )
            trainer = BaseTrainer(model, part, training_config=options)
            trainer.prepare_training()
            start = time.perf_counter()
            trainer.train_step(1)
            run.seconds = time.perf_counter() - start  # type: ignore[attr-defined]

    return run


def floor(net: str, batch: int) -> Step:
    """The network's matrix products (or convolutions) and their gradients alone."""
    made = vae(net)
    linear = [
        part for each in (made.encoder, made.decoder) for part in each.children() if not isinstance(part, nn.ReLU)
    ]
    weights = [p for part in linear for p in part.parameters() if p.ndim > 1]
    x = binary(data(net)[:batch])

    def step() -> None:
        h = x
        for part in linear:
            h = h[..., : NETS[net][1]] if h.shape[-1] == 2 * NETS[net][1] else h
            h = part(h)
        torch.autograd.grad(h, weights, h.detach())

    return step


def ours(net: str, batch: int, compile: Any = True, autocast: bool = False) -> Step:
    made, held, following = vae(net), data(net), rows(batch)
    if net == "conv":
        made.to(memory_format=torch.channels_last)  # as `fit` does
    svi = pyrovae.SVI(
        made.model,
        made.guide,
        partial(torch.optim.Adam, lr=1e-3),
        pyrovae.objectives.ELBO(),
        compile=compile,
        read=lambda index: (binary(held.index_select(0, index)),),
        autocast=torch.bfloat16 if autocast else None,
    )
    return lambda: svi.step_async(following()) and None


WAYS: dict[str, Any] = {
    "typical loop: PIL, ToTensor, DataLoader, eager": data_loader,
    "by hand, eager, in memory": hand_written,
    "by hand, torch.compile, fused Adam": partial(hand_written, compiled=True),
    "Pyro's SVI, Trace_ELBO": pyros,
    "pythae's trainer": pythaes,
    "matrix products alone": floor,
    "ours, eager": partial(ours, compile=False),
    "ours, graph": partial(ours, compile="auto"),
    "ours, compiled": ours,
    "by hand, torch.compile, medium": partial(hand_written, compiled=True),
    "ours, compiled, medium": ours,
}
STRONG = "by hand, torch.compile, fused Adam"


BFLOAT16 = {
    "by hand, torch.compile, bfloat16": partial(hand_written, compiled=True, autocast=True),
    "ours, compiled, bfloat16": partial(ours, autocast=True),
}


def serve(way: str, net: str, batch: int, threads: int, pipe: Any) -> None:
    """A process for one way of training: sets it up, then runs as many steps as it is told, and says how long."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium" if way.endswith("medium") else "highest")
    try:
        step = (WAYS | BFLOAT16)[way](net, batch)
        whole = way == "pythae's trainer"
        while steps := pipe.recv():
            start = time.perf_counter()
            if whole:
                step(steps)
            else:
                for _ in range(steps):
                    step()
            seconds = step.seconds if whole else time.perf_counter() - start
            pipe.send((1000 * seconds / steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    except (ImportError, RuntimeError) as error:
        pipe.send(str(error).splitlines()[0])


def measure(
    ways: list[str], net: str, batch: int, threads: int, rounds: int, seconds: float
) -> dict[str, tuple[list[float], float]]:
    """For each way, milliseconds a step in each round, and the peak memory in MiB."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for way in ways:
        pipes[way], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(way, net, batch, threads, theirs), daemon=True))
        processes[-1].start()
    found: dict[str, tuple[list[float], float]] = {}
    steps = {}
    for way, pipe in pipes.items():  # one at a time: set up, warm up, and see how many steps fill the time
        pipe.send(5)
        answer = pipe.recv()
        if isinstance(answer, str):
            print(f"  {way}: {answer}")
            continue
        pipe.send(10)
        steps[way] = max(3, int(1000 * seconds / pipe.recv()[0]))
        found[way] = [], 0.0
    for _ in range(rounds):
        for way, count in steps.items():
            pipes[way].send(count)
            milliseconds, memory = pipes[way].recv()
            found[way] = [*found[way][0], milliseconds], memory
    for process in processes:
        process.kill()
    return found


def table(found: dict[str, tuple[list[float], float]]) -> str:
    lines = ["| way | ms a step | quartiles | speed against by hand, compiled | peak MiB |", "|---|--:|--:|--:|--:|"]
    strong = found[STRONG][0]
    for way, (times, memory) in found.items():
        low, middle, high = statistics.quantiles(times, n=4)
        ratio = statistics.median(s / t for s, t in zip(strong, times, strict=True))
        lines.append(f"| {way} | {middle:.2f} | {low:.2f} to {high:.2f} | {ratio:.2f} | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--batches", nargs="*", type=int, default=[128, 1024])
    parser.add_argument("--threads", type=int, default=max(1, torch.get_num_threads() // 2))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each way in each round")
    parser.add_argument("--bfloat16", action="store_true", help="rows of their own for torch.autocast")
    asked = parser.parse_args()
    ways = [*WAYS, *(BFLOAT16 if asked.bfloat16 else ())]
    print(f"torch {torch.__version__}, Pyro {pyro.__version__}, {platform.machine()}, {asked.threads} threads")
    for net in asked.nets:
        for batch in asked.batches:
            start = time.perf_counter()
            found = measure(ways, net, batch, asked.threads, asked.rounds, asked.seconds)
            print(f"\n### {net}, batch {batch}\n\n{table(found)}", flush=True)
            print(f"\n{asked.rounds} rounds, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
