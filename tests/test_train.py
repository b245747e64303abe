"""The loop: what it trains, what it stops at, and that an interruption changes no bit."""

import copy
import inspect
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae
from pyrovae import Training, TrainingError, fit
from pyrovae.data import Split, Splits
from pyrovae.likelihoods import Normal
from pyrovae.networks import Conv
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.training import matmul
from pyrovae.training.rates import cosine, stages


@pytest.fixture
def x():
    return (torch.rand(50, 6) < 0.3).float()


@pytest.fixture
def vae():
    return pyrovae.VAE(6, 2)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_lowers_the_validation_loss(digits):
    vae = pyrovae.VAE(digits.event_shape, 2)
    records = fit(vae, digits, epochs=12)
    assert [record["epoch"] for record in records] == list(range(1, 13))
    assert records[-1]["valid_loss"] < 0.85 * records[0]["valid_loss"]
    assert records[-1]["step"] == 12 * 10
    assert abs(records[-1]["loss"] - records[-1]["valid_loss"]) < 2


def test_the_epoch_loss_weighs_the_last_small_batch_right(vae, x):
    """50 rows in batches of 32: at learning rate (almost) 0 the record is the mean over all rows."""
    vae.double()
    probe = Training(vae, x.double(), epochs=1, batch_size=32, learning_rate=1e-12)
    seen = []
    launch = probe.svi.step_async
    probe.svi.step_async = lambda batch: seen.append((launch(batch), len(batch))) or seen[-1][0]
    record = next(iter(probe))
    assert [n for _, n in seen] == [32, 18]
    assert record["loss"] == pytest.approx(sum(loss.item() * n for (loss, _), n in seen) / 50, rel=1e-9)


@pytest.mark.parametrize("source", ["tensor", "split", "splits", "dataset", "pairs", "loader"])
def test_every_source_of_data_trains(vae, x, source):
    data = {
        "tensor": x,
        "split": Split(x),
        "splits": Splits("mine", Split(x)),
        "dataset": TensorDataset(x),
        "pairs": TensorDataset(x, torch.arange(50)),
        "loader": DataLoader(TensorDataset(x), batch_size=10, shuffle=True),
    }[source]
    twin = copy.deepcopy(vae)
    records = fit(vae, data, epochs=2, batch_size=10)
    assert records[-1]["step"] == 10
    assert not same(vae, twin)
    if source != "loader":
        assert fit(twin, x, epochs=2, batch_size=10)[-1]["loss"] == records[-1]["loss"]
        assert same(vae, twin)


def test_a_stream_without_a_length_trains(vae, x):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(x)

    assert fit(vae, DataLoader(Endless(), batch_size=20), epochs=2)[-1]["step"] == 6


def test_a_pair_of_programs_trains(x):
    decoder = nn.Linear(1, 6)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), scale).to_event(1))

    before = decoder.bias.clone()
    records = fit((model, guide), x, epochs=60, learning_rate=0.02)
    assert records[-1]["loss"] < records[0]["loss"]
    assert not torch.equal(before, decoder.bias)
    assert list(pyro.get_param_store().keys()) == ["scale"]
    assert pyro.param("scale").item() != 0.5
    assert pyrovae.evaluate((model, guide), x, 20)["log_likelihood"]["value"] < 0


def test_same_seed_same_bits_other_seed_other_bits(vae, x):
    models = [copy.deepcopy(vae) for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        torch.manual_seed(seed + torch.randint(100, ()).item())
        fit(model, x, epochs=3, seed=seed)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


class Nested(torch.optim.Optimizer):
    """One of a user's own: its state holds numbers, and tensors in lists."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "betas": (0.5, 0.9)})

    def step(self, closure=None):
        for group in self.param_groups:
            for value in group["params"]:
                state = self.state[value] or {"steps": 0, "moments": [[], torch.zeros_like(value)], "unused": None}
                state["steps"] += 1
                state["moments"][1].lerp_(value.grad, 0.5)
                value.data -= group["lr"] * state["moments"][1].sign() / state["steps"] ** 0.5
                self.state[value] = state


SETTINGS = {
    "adam": {},
    "a nested state": {"optimizer": Nested},
    "sgd with momentum": {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
    "adamw": {"optimizer": torch.optim.AdamW, "clip": 1.0, "lr_schedule": cosine},
    "warm-up": {"objective": lambda: ELBO(WarmUp(15))},
    "validation": {"patience": 3},
    "compiled": {"compile": True},
}


def test_convolutions_resume_to_the_same_bits(digits):
    """Their kernels, and the optimiser's state of them, lie in memory otherwise in training than on disk."""

    def start():
        torch.manual_seed(1)
        part = Split(digits.train.x[:300], binarize="dynamic")
        return Training(pyrovae.VAE(digits.event_shape, 2, encoder=Conv, decoder=Conv), part, epochs=3, batch_size=100)

    whole, cut, resumed = start(), start(), start()
    list(whole)
    next(iter(cut))
    tensors, about = cut.state()
    resumed.restore(({name: value.contiguous() for name, value in tensors.items()}, about))
    list(resumed)
    assert same(whole.programs, resumed.programs)
    assert whole.programs.encoder[0].weight.is_contiguous()
    state = whole.svi.optimizer.state[whole.programs.encoder[2].weight]["exp_avg"]
    assert state.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("a nested state", "warm-up") else pytest.mark.slow) for n in SETTINGS],
)
def test_a_resumed_training_is_bitwise_the_uninterrupted_one(digits, name):
    few = replace(digits, train=Split(digits.train.x[:300], binarize="dynamic"))

    def start(seed=7):
        torch.manual_seed(seed)
        settings = {key: value() if key == "objective" else value for key, value in SETTINGS[name].items()}
        return Training(pyrovae.VAE(digits.event_shape, 2), few, epochs=6, **settings)

    whole, interrupted = start(), start()
    records = list(whole)
    states = {record["epoch"]: interrupted.state() for record in interrupted}
    for stop in (1, 4):
        resumed = start(seed=99)  # other weights, so that restoring is seen to matter
        assert not same(resumed.programs, whole.programs)
        resumed.restore(states[stop])
        before = {name: value.clone() for name, value in states[stop][0].items()}
        later = list(resumed)
        assert same(whole.programs, resumed.programs)
        assert all(torch.equal(value, before[name]) for name, value in states[stop][0].items())
        assert [r | {"seconds": 0} for r in later] == [r | {"seconds": 0} for r in records[stop:]]
        tensors, about = resumed.state()
        assert about == whole.state()[1]
        assert all(torch.equal(value, tensors[name]) for name, value in whole.state()[0].items())


def test_a_state_that_cannot_be_kept_is_named(vae, x):
    class Closed(Nested):
        def state_dict(self):
            return super().state_dict() | {"state": {0: {"hook": print}}}

    with pytest.raises(
        ValueError, match=r"optimizer.state.0.hook: expected tensors and numbers.*found builtin_function"
    ):
        Training(vae, x, epochs=1, optimizer=Closed).state()


def test_the_best_weights_survive_an_interruption():
    """Interrupted after the best epoch and resumed: early stopping still ends with the best one's weights."""
    noise = Splits("noise", Split(torch.randn(20, 6)), Split(torch.randn(20, 6)))
    start = pyrovae.VAE(6, 4, likelihood=partial(Normal, scale=0.05))
    whole, parts = [Training(copy.deepcopy(start), noise, epochs=200, learning_rate=0.02, patience=8) for _ in range(2)]
    list(whole)
    for _ in parts:
        if parts.epoch == whole.best_epoch + 3:
            break
    resumed = Training(copy.deepcopy(start), noise, epochs=200, learning_rate=0.02, patience=8)
    resumed.restore(parts.state())
    list(resumed)
    assert resumed.epoch == whole.epoch == whole.best_epoch + 8
    assert same(resumed.programs, whole.programs)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_cannot_be_read_stop_the_run_and_undo_the_epoch(vae, x, workers):
    class Torn(Dataset):
        def __len__(self):
            return 50

        def __getitem__(self, row):
            if row == 41:
                raise OSError("row 41 is torn")
            return x[row]

    training = Training(vae, DataLoader(Torn(), batch_size=10, num_workers=workers), epochs=2)
    before = copy.deepcopy(vae)
    with pytest.raises(TrainingError, match=r"the data cannot be read: .*row 41 is torn"):
        list(training)
    assert same(vae, before)
    assert training.step == 0


@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_bad_row_that_is_read_late_is_named(vae, x, compile):
    """A data set that is read row by row is not checked as a whole: the graph's own flag must catch row 30."""
    rows = [row + 0.5 * (number == 30) for number, row in enumerate(x)]
    before = copy.deepcopy(vae)
    with pytest.raises(
        TrainingError, match=r"step 4 \(epoch 1\).*the data: x: expected values in the support"
    ) as error:
        fit(vae, DataLoader(rows, batch_size=10), epochs=2, compile=compile)
    assert "10 in all" not in str(error.value)
    assert same(vae, before)


@pytest.mark.parametrize("compile", ["auto", pytest.param(True, marks=pytest.mark.slow)])
def test_every_path_trains_to_the_same_numbers(digits, compile):
    """Resident bytes, binarised on the way, with a ragged last batch: eager, as a graph, compiled."""

    def losses(compile):
        torch.manual_seed(3)
        vae = pyrovae.VAE(digits.event_shape, 2).double()
        training = Training(vae, digits, epochs=2, batch_size=100, compile=compile, objective=ELBO(WarmUp(20)))
        found = [record["loss"] for record in training]
        assert len(training.batches.data) % 100
        assert training.svi.path == {False: "eager", "auto": "graph", True: "compiled"}[compile]
        return found

    assert losses(compile) == pytest.approx(losses(False), rel=1e-10)


@pytest.mark.parametrize("matmul", ["medium", "auto"])
def test_the_matmul_precision_is_the_trainings_alone(vae, x, matmul):
    training = Training(vae, x, epochs=1, matmul=matmul)
    seen = []
    launch = training.svi.step_async
    training.svi.step_async = lambda batch: seen.append(torch.get_float32_matmul_precision()) or launch(batch)
    list(training)
    assert seen == [training.matmul]
    assert training.matmul in ("highest", "medium")
    assert torch.get_float32_matmul_precision() == "highest"
    assert bool(training.matmul_measured) == (matmul == "auto")


def test_medium_is_taken_only_where_it_is_as_exact(monkeypatch):
    """A product with bfloat16's error is refused, however fast; an exact and fast one is taken."""
    weight = [torch.randn(50, 60)]
    monkeypatch.setattr(matmul, "_seconds", lambda x, w: {"highest": 2.0, "medium": 1.0}[precision()])
    precision = torch.get_float32_matmul_precision
    assert matmul.fastest_matmul(weight, 8)[0] == "medium"
    assert matmul.fastest_matmul([], 8) == ("highest", 0.0, 1.0)
    rounded = matmul.matmul_precision

    @contextmanager
    def coarse(name):
        with rounded(name), monkeypatch.context() as patch:
            if name == "medium":
                patch.setattr(torch.Tensor, "__matmul__", lambda a, b: a.bfloat16().float().mm(b.bfloat16().float()))
            yield

    monkeypatch.setattr(matmul, "matmul_precision", coarse)
    choice, error, speed = matmul.fastest_matmul(weight, 8)
    assert (choice, speed) == ("highest", 2.0)
    assert 1e-4 < error < 1e-1


def test_autocast_is_close_and_keeps_the_parameters(vae, x):
    exact, rounded = [fit(copy.deepcopy(vae), x, epochs=3, autocast=autocast)[-1]["loss"] for autocast in (False, True)]
    assert rounded == pytest.approx(exact, rel=0.01)
    assert rounded != exact
    assert {value.dtype for value in vae.parameters()} == {torch.float32}


def test_stages_are_those_of_the_paper():
    """Stage i has 3^i of the 3280 epochs, at 10^(-i/7)."""
    rates = [stages(epoch / 3280) for epoch in range(3280)]
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert rates == pytest.approx(expected)
    assert stages(1.0) == pytest.approx(0.1)


def test_cosine_goes_from_one_to_zero(vae, x):
    assert [cosine(share) for share in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    records = fit(vae, x, epochs=4, batch_size=50, learning_rate=0.1, lr_schedule=cosine)
    assert [record["learning_rate"] for record in records] == pytest.approx([0.1 * cosine(e / 4) for e in range(4)])


def test_early_stopping_waits_for_the_warm_up_and_keeps_the_best(x):
    """Trained on noise, validation gets worse; patience counts from the end of the warm-up only."""
    vae = pyrovae.VAE(6, 4, likelihood=partial(Normal, scale=0.05)).double()
    data = Splits("noise", Split(torch.randn(20, 6).double()), Split(torch.randn(20, 6).double()))
    training = Training(vae, data, epochs=400, learning_rate=0.01, patience=5, objective=ELBO(WarmUp(30)))
    records = list(training)
    assert 30 < len(records) < 400
    losses = [record["valid_loss"] for record in records]
    assert training.best_loss == min(losses)
    assert losses.index(min(losses)) + 1 == training.best_epoch
    assert training._validate() == pytest.approx(min(losses), rel=1e-9)


def test_a_run_that_blows_up_is_stopped_named_and_undone(vae, x):
    training = Training(vae, x, epochs=5, learning_rate=1e12, batch_size=10)
    before = copy.deepcopy(vae)
    with pytest.raises(TrainingError, match=r"step 2 \(epoch 1\).*Usual causes: a learning rate that is too high"):
        list(training)
    assert same(vae, before)
    assert training.step == 0


class Faulty(nn.Module):
    """Multiplies by NaN in training, for the batch with the value 5 in it."""

    hot = False

    def __init__(self, network, watches=False):
        super().__init__()
        self.network, self.watches = network, watches

    def forward(self, value):
        if self.watches:
            Faulty.hot = self.training and bool((value == 5).any())
        breaks = Faulty.hot and not isinstance(self.network, nn.Identity)
        return self.network(value) * (torch.nan if breaks else 1.0)


@pytest.mark.parametrize("where", ["guide", "model"])
def test_the_replay_names_step_and_site(where):
    """Row 30 is poison: the step that meets it is named, and the site whose network did it."""
    x = torch.rand(50, 6)
    x[30] = 5
    vae = pyrovae.VAE(6, 2, likelihood=Normal)
    watcher = Faulty(nn.Identity(), watches=True)
    broken = vae.encoder if where == "guide" else vae.decoder
    if where == "guide":
        vae.encoder = Faulty(broken, watches=True)
    else:
        vae.decoder = Faulty(broken)
        vae.encoder = nn.Sequential(watcher, vae.encoder)
    vae.train()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    step = (order == 30).nonzero().item() // 10 + 1
    before = copy.deepcopy(vae.state_dict())
    message = rf"step {step} \(epoch 1\).*site '{'z' if where == 'guide' else 'x'}' of the {where}"
    with pytest.raises(TrainingError, match=message):
        fit(vae, x, epochs=3, batch_size=10, compile=False)
    Faulty.hot = False
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_a_fault_in_the_validation_stops_the_run_at_the_end_of_the_epoch():
    class Broken(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.trained = network, False

        def forward(self, value):
            self.trained |= self.training
            return self.network(value) * (torch.nan if self.trained and not self.training else 1.0)

    x = torch.rand(20, 6)
    vae = pyrovae.VAE(6, 2, likelihood=Normal)
    vae.encoder = Broken(vae.encoder)
    before = copy.deepcopy(vae)
    with pytest.raises(TrainingError, match=r"step 2 \(epoch 1\): .* in validation; first at site 'z' of the guide"):
        fit(vae, Splits("mine", Split(x), Split(x)), epochs=2, batch_size=10)
    assert same(vae, before)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.zeros(0, 6), {}, "expected data, found none"),
        (torch.zeros(1, 6), {}, "expected at least 2 rows to train on, found 1"),
        (torch.zeros(9, 6), {"batch_size": 10}, "batch_size: expected at most the 9 training rows, found 10"),
        (torch.zeros(9, 6), {"batch_size": 0}, "batch_size: expected an integer >= 1, found 0"),
        (torch.zeros(9, 6), {"epochs": 0}, "epochs: expected an integer >= 1, found 0"),
        (torch.zeros(9, 6), {"learning_rate": 0.0}, "learning_rate: expected a number > 0"),
        (torch.zeros(9, 6), {"learning_rate": float("nan")}, "learning_rate: expected a finite number"),
        (torch.zeros(9, 6), {"clip": -1.0}, "clip: expected a number > 0"),
        (torch.zeros(9, 6), {"seed": 2**63}, "seed: expected an integer < 2"),
        (torch.zeros(9, 6), {"seed": -1}, "seed: expected an integer >= 0"),
        (
            torch.zeros(9, 6),
            {"objective": Trace_ELBO()},
            "objective: expected one of pyrovae.objectives, found Trace_ELBO",
        ),
        (torch.zeros(9, 6), {"optimizer": torch.optim.LBFGS}, "optimizer: expected one that steps on gradients"),
        (torch.zeros(9, 6), {"optimizer": partial(torch.optim.SGD, momentum=-1)}, "optimizer: Invalid momentum"),
        (torch.zeros(9, 6), {"matmul": "hi"}, "unknown matmul 'hi'; did you mean 'high'"),
        (torch.zeros(9, 6), {"compile": "yes"}, "compile: expected .auto., True or False, found 'yes'"),
        (torch.zeros(9, 6), {"patience": 2}, "patience: expected validation data to watch"),
        (torch.full((9, 6), 0.5), {}, "binarise the data"),
        (torch.full((9, 6), float("inf")), {}, "expected finite values, found inf"),
        (torch.zeros(9, 7), {}, r"x: expected shape \(N, 6\), found \(9, 7\)"),
        ([[0.0] * 6] * 3, {}, "a tensor, a Dataset or a DataLoader|expected"),
        (7, {}, "expected data.load.*found int"),
    ],
)
def test_bad_input_is_refused_before_any_step(vae, data, options, message):
    before = copy.deepcopy(vae)
    with pytest.raises(ValueError, match=message):
        fit(vae, data, **options)
    assert same(vae, before)


def test_data_that_are_not_of_the_order_of_one_are_named(x):
    """The first step's scales are zero or infinite, which torch says, but not why."""
    with pytest.raises(ValueError, match=r"\(x is as large as 1e\+06: if it is not of order 1, standardise it\)"):
        fit(pyrovae.VAE(6, 2, likelihood=Normal), x * 1e6, epochs=1)


def test_a_bad_row_anywhere_is_found_before_any_step(vae, x):
    x[37, 2] = torch.nan
    with pytest.raises(ValueError, match=r"found nan at \(37, 2\), 1 in all"):
        fit(vae, x)


def test_fit_names_the_options_of_a_training():
    one, other = (inspect.signature(each).parameters for each in (fit, Training))
    assert {name: (each.default, each.kind) for name, each in one.items()} == {
        name: (each.default, each.kind) for name, each in other.items()
    }
    assert len(one) == 16
