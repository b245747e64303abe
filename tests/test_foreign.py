"""Programs that others wrote: each question agrees with Pyro's own estimators, run particle by particle, or names what
it refuses.

The programs are in the manner of Pyro's examples and of what people post: plates without sizes and of other names,
dimensions counted from the left, columns by position, latents that all rows share, automatic guides.
"""

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from tabulate import tabulate
from torch import nn
from torch.distributions import constraints
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyrovae
from pyrovae.data.split import Wanted
from pyrovae.objectives import ELBO, IWAE, ReweightedWakeSleep
from pyrovae.programs import assumptions, columns, importance, plates
from pyrovae.training import train

N, D, S, K = 24, 4, 0.5, 200  # rows, size of x, scale of x given z, particles
PROGRAMS: dict[str, Callable[[], "Foreign"]] = {}
PLACE = (
    "depends on a row's position|cannot be run on|expected the 128 rows .* found .data. of 16|real parameters to shift"
)
SHARED = "all rows share it"
ALL = ("evaluate", "diagnose", "gaps")


@dataclass
class Foreign:
    """A model, a guide and their columns; what is refused, by question; a dimension of the scores that is the rows'."""

    model: Any
    guide: Any
    columns: Any
    refused: dict[str, str] = field(default_factory=dict)
    dim: int = -1
    objective: Any = field(default_factory=ELBO)
    loss: Any = field(default_factory=Trace_ELBO)
    warns: str = ""  # where particles are copies of the rows
    coupled: bool = False  # whether a row's score in training depends on the others
    exact: float | None = None  # the mean of log p(x)
    modules: tuple[nn.Module, ...] = ()

    @property
    def args(self) -> tuple[Any, ...]:
        """The columns in the order of the programs' arguments."""
        if isinstance(self.columns, dict):
            return tuple(self.columns[name] for name in inspect.signature(self.model).parameters)
        return self.columns if isinstance(self.columns, tuple) else (self.columns,)


def program(make):
    PROGRAMS[make.__name__] = make
    return make


def refuses(*questions, because):
    return dict.fromkeys(questions, because)


def rows():
    return torch.randn(N, 1) + S * torch.randn(N, D)


def posterior(x, spread=1.3):
    """q(z|x), the exact posterior of `rows`' model but for its spread."""
    precision = 1 + D / S**2
    return dist.Normal((x.sum(-1) / S**2) / precision, spread * precision**-0.5)


def evidence(x):
    """log p(x) of the model that `rows` come from. (N,)"""
    return dist.MultivariateNormal(torch.zeros(D), torch.ones(D, D) + S**2 * torch.eye(D)).log_prob(x)


def wide(z):
    return dist.Normal(z.unsqueeze(-1).expand(*z.shape, D), S).to_event(1)


def guide_z(x, *rest):
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))


@program
def sized_plate():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))), obs=x)

    x = rows()
    return Foreign(model, guide_z, x, exact=evidence(x).mean().item())


@program
def plate_without_a_size():
    def model(x):
        with pyro.plate("data"):
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))), obs=x)

    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", posterior(x))

    x = rows()
    return Foreign(model, guide, x, exact=evidence(x).mean().item())


@program
def plate_without_a_size_and_one_latent_for_all():
    def model(x):
        with pyro.plate("data"):
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))), obs=x)

    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    why = """plate "data": expected the .* rows of the first argument, found 'data' of 1"""
    return Foreign(model, guide, rows(), refuses(*ALL, "fit", "minibatches", "svi", because=why))


@program
def plate_of_another_name():
    def model(x):
        with pyro.plate("images", len(x)):
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))), obs=x)

    def guide(x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", posterior(x))

    x = rows()
    return Foreign(model, guide, x, exact=evidence(x).mean().item())


@program
def two_plates_one_after_the_other():
    def model(x):
        with pyro.plate("latents", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("observations", len(x)):
            pyro.sample("x", wide(z), obs=x)

    def guide(x):
        with pyro.plate("latents", len(x)):
            pyro.sample("z", posterior(x))

    x = rows()
    return Foreign(model, guide, x, exact=evidence(x).mean().item())


@program
def plate_of_features_inside():
    """Both dims written out: the rows' is -2."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("features", D, dim=-1):
                pyro.sample("x", dist.Normal(z.expand(len(x), D), S), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(posterior(x).loc[:, None], posterior(x).scale[:, None]))

    x = rows()
    inside = refuses("gaps", because="refine: expected one proposal for each row at 'z', found .128, 1.")
    return Foreign(model, guide, x, inside, dim=-2, exact=evidence(x).mean().item())


@program
def plates_that_pyro_numbers():
    """The outer plate gets dim -1, the inner one -2; each row has its own latent for each feature, too."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("features", D):
                e = pyro.sample("e", dist.Normal(z, 0.3))
                pyro.sample("x", dist.Normal(e, 0.4), obs=x.T)

    def guide(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", posterior(x))
            with pyro.plate("features", D):
                pyro.sample("e", dist.Normal((z + x.T) / 2, 0.3))

    inside = refuses("gaps", because="refine: expected one proposal for each row at 'e', found .4, 128.")
    return Foreign(model, guide, rows(), inside)


@program
def first_column_of_z():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            f = z[:, 0]
            pyro.sample("x", dist.Normal(f[..., None] * torch.ones(D), S).to_event(1), obs=x)

    def guide(x):
        q = posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]).to_event(1))

    x = rows()
    return Foreign(model, guide, x, warns="copies of the rows", exact=evidence(x).mean().item())


@program
def cat_along_1():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z, z, z], 1), S).to_event(1), obs=x)

    x = rows()
    return Foreign(model, first_column_of_z().guide, x, warns="copies of the rows", exact=evidence(x).mean().item())


@program
def softmax_along_1():
    net = nn.Linear(2, D)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Multinomial(5, torch.softmax(net(z), 1)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x[:, :2], 0.9).to_event(1))

    counts = dist.Multinomial(5, torch.ones(D)).sample((N,))
    return Foreign(model, guide, counts, warns="copies of the rows")


@program
def a_view_of_minus_1():
    fc, conv = nn.Linear(2, 8), nn.ConvTranspose2d(2, 1, 2, 2)

    def model(x):
        pyro.module("fc", fc)
        pyro.module("conv", conv)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            h = conv(fc(z).view(-1, 2, 2, 2))
            pyro.sample("x", dist.Bernoulli(logits=h).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.flatten(1)[:, :2] / 4, 0.8).to_event(1))

    return Foreign(model, guide, (torch.rand(N, 1, 4, 4) < 0.4).float(), warns="copies of the rows")


@program
def several_observed_sites():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", wide(z), obs=x)
            pyro.sample("count", dist.Poisson(z.exp()), obs=y)

    return Foreign(model, lambda x, y: guide_z(x), (rows(), torch.arange(N) % 3.0))


@program
def a_target_that_is_not_y():
    def model(x, target=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("t", dist.Normal(x.sum(-1) + z, 1.0), obs=target)

    def guide(x, target=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((target - x.sum(-1)) / 2, 0.8))

    x = rows()
    return Foreign(model, guide, (x, x.sum(-1) + torch.randn(N)))


@program
def three_columns():
    def model(x, offset, weight):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(offset, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * weight, S).to_event(1), obs=x)

    def guide(x, offset, weight):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(offset + 0.5 * x.mean(-1), 0.7))

    return Foreign(model, guide, (rows(), torch.randn(N), torch.rand(N, D)))


@program
def columns_by_name():
    made = three_columns()
    x, offset, weight = made.columns
    return Foreign(made.model, made.guide, {"weight": weight, "x": x, "offset": offset})


@program
def labels_that_are_there():
    """In the manner of Pyro's M2, whose labels are called ys."""
    table = torch.randn(3, D)

    def model(xs, ys=None):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), 1), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(len(xs), 3)), obs=ys)
            pyro.sample("x", dist.Normal(z + y @ table, S).to_event(1), obs=xs)

    def guide(xs, ys=None):
        with pyro.plate("data"):
            loc = posterior(xs - ys @ table)
            pyro.sample("z", dist.Normal(loc.loc[:, None], loc.scale[:, None]).to_event(1))

    return Foreign(model, guide, (rows(), F.one_hot(torch.arange(N) % 3, 3).float()))


@program
def labels_that_the_guide_enumerates():
    start = torch.randn(3, D)

    def model(x):
        table = pyro.param("table", start)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] + table[y], S).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=x[:, :3]), infer={"enumerate": "parallel"})
            pyro.sample("z", posterior(x - start[y]))

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    several = refuses("gaps", because="refine: expected one proposal for each row at 'z', found .3, 128.")
    return Foreign(model, guide, rows(), several, objective=ELBO(estimator="enumerated"), loss=loss)


@program
def a_mixture_that_the_model_enumerates():
    """The guide has no y: refused, but for training."""

    def model(x):
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[y].unsqueeze(-1), S).expand([*y.shape[:-1], len(x), D]).to_event(1), obs=x)

    why = "expected the same latents in model and guide, found .'y'. in the model|found none to shift"
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    nothing = lambda x: None  # noqa: E731
    return Foreign(
        model, nothing, rows(), refuses(*ALL, because=why), objective=ELBO(estimator="enumerated"), loss=loss
    )


@program
def weights_that_all_rows_share():
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, S).to_event(1), obs=x)

    return Foreign(
        model, AutoNormal(model), rows(), refuses(*ALL, "minibatches", because=f"{SHARED}|real parameters to shift")
    )


@program
def weights_that_all_rows_share_in_a_subsampled_plate():
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(w, S).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("m", torch.zeros(D)), 0.3).to_event(1))

    return Foreign(model, guide, rows(), refuses(*ALL, because=SHARED))


@program
def observed_entries_under_a_mask():
    """Sequences of several lengths, padded."""

    def model(x, there):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, D), S).mask(there).to_event(1), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x * there).sum(-1) / (there.sum(-1) + 0.25), 0.6))

    return Foreign(model, guide, (rows(), torch.arange(D) < 1 + torch.arange(N)[:, None] % D))


@program
def latents_under_a_mask():
    def model(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there):
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there):
            pyro.sample("z", posterior(x))

    return Foreign(model, guide, (rows(), torch.arange(N) % 2 == 0), refuses(*ALL, because="site 'z'.*found a mask"))


@program
def a_factor_as_likelihood():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", wide(z).log_prob(x))

    x = rows()
    return Foreign(model, guide_z, x, exact=evidence(x).mean().item())


@program
def latents_that_are_scaled():
    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", wide(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
            pyro.sample("z", posterior(x))

    return Foreign(model, guide, rows(), refuses(*ALL, because="site 'z'.*found scale 0.5"))


@program
def a_site_that_is_blocked():
    """Its noise is drawn, and scored nowhere."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.block(hide=["noise"]):
                noise = pyro.sample("noise", dist.Normal(0.0, 0.5))
            pyro.sample("x", wide(z + noise), obs=x)

    return Foreign(model, guide_z, rows(), refuses(*ALL, because="random numbers outside sites"))


class Linear(PyroModule):
    """A PyroModule with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.weight = PyroParam(torch.ones(D))
        self.scale = PyroParam(torch.tensor(S), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * self.weight, self.scale).to_event(1), obs=x)


@program
def a_pyro_module():
    x = rows()
    return Foreign(Linear(), guide_z, x, exact=evidence(x).mean().item())


def local(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))), obs=x)


@program
def auto_normal_of_each_row():
    return Foreign(local, AutoNormal(local), rows(), refuses(*ALL, "fit", "minibatches", because=PLACE))


@program
def auto_delta_of_each_row():
    return Foreign(local, AutoDelta(local), rows(), refuses(*ALL, "fit", "minibatches", because=PLACE))


@program
def auto_diagonal_normal():
    why = f"{SHARED}|{PLACE}"
    return Foreign(local, AutoDiagonalNormal(local), rows(), refuses(*ALL, "fit", "minibatches", because=why))


@program
def parameters_of_each_row():
    """Plain mean field, as eight schools are written."""

    def guide(x):
        loc = pyro.param("loc", torch.zeros(N))
        scale = pyro.param("scale", torch.ones(N), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale))

    return Foreign(local, guide, rows(), refuses(*ALL, "fit", "minibatches", because=PLACE))


@program
def a_table_of_embeddings_by_place():
    table = nn.Embedding(100, 1)

    def guide(x):
        pyro.module("table", table)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(table(torch.arange(len(x)))[:, 0], 1.0))

    return Foreign(local, guide, rows(), refuses(*ALL, "fit", "minibatches", because="depends on a row's position"))


@program
def a_topic_model():
    topics = torch.randn(3, 6).softmax(-1)

    def model(x):
        with pyro.plate("documents", len(x)):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(3)))
            pyro.sample("words", dist.Multinomial(10, theta @ topics), obs=x)

    def guide(x):
        with pyro.plate("documents", len(x)):
            pyro.sample("theta", dist.Dirichlet(1 + x @ topics.T))

    return Foreign(model, guide, dist.Multinomial(10, torch.ones(6)).sample((N,)))


@program
def a_topic_for_each_word():
    start = torch.randn(3, 6).softmax(-1)

    def model(x):
        topics = pyro.param("topics", start, constraint=constraints.simplex)
        with pyro.plate("documents", len(x)):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(3)))
            with pyro.plate("words", D):
                topic = pyro.sample("topic", dist.Categorical(theta))
                pyro.sample("word", dist.Categorical(topics[topic]), obs=x.T)

    def guide(x):
        with pyro.plate("documents", len(x)):
            pyro.sample("theta", dist.Dirichlet(torch.ones(len(x), 3)))
            with pyro.plate("words", D):
                pyro.sample("topic", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})

    why = "site 'topic'.*enumerated latent in plates documents, words"
    loss = TraceEnum_ELBO(max_plate_nesting=2)
    words = (torch.arange(N * D).reshape(N, D) % 6).float()
    return Foreign(model, guide, words, refuses(*ALL, because=why), objective=ELBO(estimator=loss), loss=loss)


@program
def deterministic_sites():
    def model(x):
        scale = pyro.deterministic("scale", torch.tensor(S))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = pyro.deterministic("mean", z[..., None].expand(*z.shape, D), event_dim=1)
            pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)

    x = rows()
    return Foreign(model, guide_z, x, exact=evidence(x).mean().item())


@program
def two_layers():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 0.6))
            z1 = pyro.sample("z1", dist.Normal(z2, 0.8))
            pyro.sample("x", wide(z1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", posterior(x))
            pyro.sample("z2", dist.Normal(0.36 * z1, 0.5))

    x = rows()
    return Foreign(model, guide, x, exact=evidence(x).mean().item())


@program
def an_auxiliary_site():
    """z > 0 as a function of a real u, as Pyro's automatic guides have it."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 0.5))
            pyro.sample("x", dist.Normal(z.log().unsqueeze(-1).expand(*z.shape, D), S).to_event(1), obs=x)

    def guide(x):
        q = posterior(x)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.6 * q.loc, q.scale), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    # A Delta has no parameters to refine.
    return Foreign(model, guide, rows(), refuses("gaps", because="refine: expected real parameters to shift at 'z'"))


@program
def batch_norm_in_a_closure():
    """In training mode a row's score is the whole batch's; an evaluation asks it in evaluation mode."""
    norm = nn.BatchNorm1d(D)

    def model(x):
        pyro.module("norm", norm)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(norm(z.reshape(-1, D)).reshape(z.shape), S).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.7 * x, 0.6).to_event(1))

    return Foreign(model, guide, rows(), coupled=True, modules=(norm,))


@program
def rows_that_share_their_mean():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] + x.mean(0), S).to_event(1), obs=x)

    return Foreign(
        model,
        guide_z,
        rows(),
        refuses(*ALL, because="site 'x' of the model: the score of a row changes with"),
        coupled=True,
    )


@program
def dropout_that_is_never_off():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(F.dropout(z[..., None].expand(*z.shape, D)), S).to_event(1), obs=x)

    return Foreign(model, guide_z, rows(), refuses(*ALL, because="random numbers outside sites"))


@program
def nothing_observed():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", wide(pyro.sample("z", posterior(x))))

    return Foreign(
        model, guide, rows(), refuses(*ALL, "fit", "minibatches", because="expected a model that observes data")
    )


@program
def rows_that_the_model_chooses():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=12) as chosen:
            pyro.sample("x", wide(pyro.sample("z", dist.Normal(0.0, 1.0))), obs=x[chosen])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=12) as chosen:
            pyro.sample("z", posterior(x[chosen]))

    return Foreign(model, guide, rows(), refuses(*ALL, because="random numbers outside sites|found 12 of"))


@program
def a_plate_of_another_length():
    def model(x):
        with pyro.plate("data", D):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, S), obs=x)

    def guide(x):
        with pyro.plate("data", D):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    why = 'plate "data": expected the .* rows of the first argument, found .data. of 4'
    return Foreign(model, guide, rows(), refuses(*ALL, "fit", "minibatches", "svi", because=why))


def made(name):
    """A case, always with the same data."""
    torch.manual_seed(1)
    pyro.clear_param_store()
    return PROGRAMS[name]()


def with_parameter(case):
    """Its guide, with something to train in any case."""

    def guide(*args):
        pyro.param("unused", torch.tensor(0.0))
        return case.guide(*args)

    return guide


def fitted(case, batch_size):
    """The losses of epochs that hardly move."""
    programs, few = (case.model, with_parameter(case)), {"epochs": 30, "learning_rate": 1e-12, "compile": False}
    records = pyrovae.fit(programs, data(case), batch_size=batch_size, objective=case.objective, **few)
    return torch.tensor([record["loss"] for record in records], dtype=torch.double)


def data(case):
    return case.columns[0] if isinstance(case.columns, tuple) and len(case.columns) == 1 else case.columns


ASK = {
    "fit": lambda case: fitted(case, N),
    "minibatches": lambda case: fitted(case, N // 2),
    "evaluate": lambda case: pyrovae.evaluate((case.model, case.guide), data(case), K),
    "diagnose": lambda case: pyrovae.diagnose((case.model, case.guide), data(case), K),
    "gaps": lambda case: pyrovae.gaps((case.model, case.guide), data(case), steps=5, particles=K),
}


def asked(case, question):
    """The answer, or None where it is refused, as it has to be: in one line."""
    if (why := case.refused.get(question)) is not None:
        with pytest.raises(ValueError, match=why) as error:
            ASK[question](case)
        assert "\n" not in str(error.value)
        return None
    if case.warns and question in ALL:
        with pytest.warns(UserWarning, match=case.warns) as warned:
            answer = ASK[question](case)
        assert len(warned) == 1
        return answer
    return ASK[question](case)


def by_hand(case, particles=K):
    """log p(x, z) - log q(z|x) of each particle and row, by Pyro's traces, one particle after the other. (K, N)"""
    with torch.no_grad(), modes(case, training=False):
        return torch.stack([log_weight(case) for _ in range(particles)]).double()


def log_weight(case):
    q = poutine.trace(case.guide).get_trace(*case.args)
    p = poutine.trace(poutine.replay(case.model, trace=q)).get_trace(*case.args)
    return row_score(p, case.dim) - row_score(q, case.dim)


def row_score(trace, dim):
    """The scores of each row: Pyro's, summed over all plates but that of the rows."""
    trace.compute_log_prob()
    total = torch.zeros(N)
    for site in trace.nodes.values():
        if site["type"] == "sample" and len(site["cond_indep_stack"]):
            score = site["log_prob"]
            total = total + (score.movedim(dim, 0).flatten(1).sum(1) if score.ndim > 1 else score)
    return total


@cache
def weights_by_hand(name):
    """`by_hand` of a program, drawn once for all questions, and not from the seed that they begin with."""
    case = made(name)
    torch.manual_seed(2)
    return by_hand(case)


@cache
def losses_of_pyro(name):
    """A hundred of Pyro's losses, drawn once for both ways to fit, and not from the seed that these begin with."""
    case = made(name)
    torch.manual_seed(2)
    return torch.tensor([case.loss.loss(case.model, case.guide, *case.args) / N for _ in range(100)]).double()


def modes(case, training):
    return pyrovae.modes.mode(case.modules, training)


def log_mean_exp(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


def check_close(value, expected, *errors):
    """Within five standard errors, or float32's rounding."""
    bound = 5 * math.hypot(*errors) + 1e-4 * max(1, abs(expected))
    assert abs(value - expected) < bound, f"{value} is {abs(value - expected) / bound * 5:.1f} errors from {expected}"


def check_answers(case, question, weights=None):
    """The bound, and log p(x), are those of particles one by one; log p(x) that of a closed form where there is one."""
    if (answer := asked(case, question)) is None:
        return
    log_w = by_hand(case) if weights is None else weights()
    of_bound = log_w.mean(1).std().item() / K**0.5
    of_log_p = ((log_w - log_mean_exp(log_w)).exp().var(0).sum() / K).sqrt().item() / N
    if question != "gaps":
        check_close(answer["elbo"]["value"], log_w.mean().item(), of_bound, of_bound)
    if case.exact is not None:
        check_close(answer["log_likelihood"]["value"], case.exact, of_log_p)
    check_close(answer["log_likelihood"]["value"], log_mean_exp(log_w).mean().item(), of_log_p, of_log_p)


@pytest.mark.parametrize("name", PROGRAMS)
def test_svi_takes_the_steps_of_pyro(name):
    if "svi" in made(name).refused:  # by Pyro, too
        return
    losses = []
    for kind in (SVI, pyrovae.SVI):
        case = made(name)
        svi = kind(case.model, with_parameter(case), pyro.optim.Adam({"lr": 0.01}), case.loss)
        torch.manual_seed(2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the programs cannot be recorded as one graph")
            first = [svi.step(*case.args) for _ in range(2)]
            if kind is pyrovae.SVI:  # the others as a graph, where the programs are one
                svi.prepare(*case.args)
            losses.append(first + [svi.step(*case.args) for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def asks(*questions):
    """Each program with the first question, and with one of the others; the rest is left to nox -s slow."""
    kept = {
        (name, others) for i, name in enumerate(PROGRAMS) for others in (questions[0], questions[i % len(questions)])
    }
    return pytest.mark.parametrize(
        ("name", "question"),
        [
            pytest.param(name, question, marks=[] if (name, question) in kept else pytest.mark.slow)
            for question in questions
            for name in PROGRAMS
        ],
    )


@asks("fit", "minibatches")
def test_a_fit_has_the_loss_of_pyro(name, question):
    """In nats per datum; that of minibatches has the same mean, where rows are independent."""
    case = made(name)
    losses = asked(case, question)
    if losses is None or (case.coupled and question == "minibatches"):
        return
    theirs = losses_of_pyro(name)
    errors = [each.std().item() / len(each) ** 0.5 for each in (losses, theirs)]
    check_close(losses.mean().item(), theirs.mean().item(), *errors)


@asks(*ALL)
def test_questions_are_answered_as_by_hand_or_refused_by_name(name, question):
    check_answers(made(name), question, partial(weights_by_hand, name))


LEFT = [name for name, make in PROGRAMS.items() if make().warns]


@pytest.mark.parametrize("make", [partial(IWAE, 5), partial(IWAE, 5, dreg=True), partial(ReweightedWakeSleep, 5)])
@pytest.mark.parametrize("name", LEFT)
def test_an_importance_weighted_bound_of_programs_that_index_from_the_left(name, make):
    case = made(name)
    loss = make().differentiable_loss
    with pytest.warns(UserWarning, match="copies of the rows"):
        losses = torch.tensor([loss(case.model, case.guide, *case.args).item() for _ in range(40)]).double()
    hand = torch.stack([log_mean_exp(part).mean() for part in by_hand(case, 5 * 40).split(5)])
    check_close(losses.mean().item(), -hand.mean().item(), *(each.std().item() / 40**0.5 for each in (losses, hand)))


def test_programs_are_many_and_mostly_served():
    assert len(PROGRAMS) >= 25
    served = [name for name in PROGRAMS if not made(name).refused]
    assert len(served) >= 20


def test_a_dimension_in_front_that_nobody_checks_is_caught(monkeypatch):
    """Planted: particles are laid out in front, whatever the programs make of it."""
    monkeypatch.setattr(assumptions, "_differing", lambda *args, **kwargs: "")
    case = made("first_column_of_z")
    case.warns = ""
    with pytest.raises(AssertionError, match="errors from"):
        check_answers(case, "evaluate")


def test_a_size_that_is_trusted_is_caught(monkeypatch):
    """Planted: a plate without a size has the size that Pyro gives it, -1."""
    monkeypatch.setattr(plates, "length", lambda site, frame: frame.size)
    monkeypatch.setattr(plates, "_check", lambda site, plate: None)
    monkeypatch.setattr(plates, "_names", lambda sizes, rows: {"data"})
    monkeypatch.setattr(assumptions, "check_training", lambda *args: None)
    monkeypatch.setattr(train, "check_training", lambda *args: None)
    case = made("plate_without_a_size")
    loss = fitted(case, N).mean().item()
    theirs = case.loss.loss(case.model, case.guide, *case.args) / N
    assert theirs > 0
    with pytest.raises(AssertionError, match="errors from"):
        check_close(loss, theirs, 0.3)


def test_parameters_by_row_that_nobody_looks_for_are_caught(monkeypatch):
    """Planted: rows are shuffled beside parameters of each row. The bound of training stays far from that in order."""
    monkeypatch.setattr(train, "check_training", lambda *args: None)
    case = made("parameters_of_each_row")
    few = {"epochs": 400, "batch_size": N, "learning_rate": 0.05, "compile": False}
    shuffled = pyrovae.fit((case.model, case.guide), case.columns, **few)[-1]["loss"]
    case = made("parameters_of_each_row")
    svi = pyrovae.SVI(case.model, case.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    in_order = [svi.step(*case.args) / N for _ in range(400)][-1]
    assert in_order == pytest.approx(-evidence(case.columns).mean().item(), abs=0.3)
    with pytest.raises(AssertionError, match="errors from"):
        check_close(shuffled, in_order, 0.2)


def test_a_column_that_is_dropped_is_caught(monkeypatch):
    """Planted: only an argument named y gets the second column, so that the model observes nothing."""
    monkeypatch.setattr(columns, "of_labels", lambda programs: True)
    monkeypatch.setattr(columns, "wanted", lambda programs: Wanted())
    monkeypatch.setattr(importance, "wanted", lambda programs: Wanted())
    case = made("a_target_that_is_not_y")
    with pytest.raises((AssertionError, ValueError), match=r"errors from|cannot be run on"):
        check_answers(case, "evaluate")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("rows_that_share_their_mean", "_check_coupling"),
        ("dropout_that_is_never_off", "_check_noise"),
        ("parameters_of_each_row", "_check_place"),
        ("nothing_observed", "_check_observed"),
        ("weights_that_all_rows_share", "_check_shared"),
    ],
)
def test_each_check_is_what_refuses(monkeypatch, name, check):
    """Planted: without it, the answer that it refuses is given, or refused for another reason."""
    question = {"_check_shared": "minibatches", "_check_place": "fit"}.get(check, "evaluate")
    asked(made(name), question)
    monkeypatch.setattr(assumptions, check, lambda *args: None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        asked(made(name), question)


def test_noise_that_a_parameter_begins_with_is_drawn_once():
    """The first step is Pyro's, with the noise that is left after `pyro.param` has drawn its first value."""
    losses = []
    for kind in (SVI, pyrovae.SVI):
        pyro.clear_param_store()

        def model(x):
            w = pyro.param("w", lambda: torch.randn(D))
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "x", dist.Normal(w + pyro.sample("z", dist.Normal(0.0, 1.0))[:, None], S).to_event(1), obs=x
                )

        torch.manual_seed(3)
        x = rows()
        svi = kind(model, guide_z, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        losses.append([svi.step(x) for _ in range(5)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_swapped_programs_are_refused():
    case = made("sized_plate")
    with pytest.raises(ValueError, match="swapped"):
        pyrovae.fit((case.guide, case.model), case.columns, epochs=1)
    with pytest.raises(ValueError, match="swapped"):
        pyrovae.evaluate((case.guide, case.model), case.columns)


@pytest.mark.parametrize(
    ("columns_", "message"),
    [
        ((torch.zeros(N, D), torch.zeros(N), torch.zeros(N)), r"columns that the model.x, target. takes, found 3"),
        ({"x": torch.zeros(N, D), "age": torch.zeros(N)}, "expected columns x, target, .* found also 'age'"),
        ({"target": torch.zeros(N)}, "expected a column 'x' before 'target'"),
        ((torch.zeros(N, D), torch.zeros(N - 1)), f"y: expected a label for each of {N} rows, found {N - 1}"),
        ((torch.zeros(N, D), torch.full((N,), math.nan)), "column 2: expected finite values, found nan"),
    ],
)
@pytest.mark.parametrize("ask", [pyrovae.fit, pyrovae.evaluate])
def test_columns_that_the_programs_do_not_take_are_refused(columns_, message, ask):
    case = made("a_target_that_is_not_y")
    with pytest.raises(ValueError, match=message):
        ask((case.model, case.guide), columns_)


def test_a_column_that_is_needed_is_asked_for():
    case = made("three_columns")
    with pytest.raises(
        ValueError, match=r"a column of data for each argument of the model.x, offset, weight., found 1"
    ):
        pyrovae.evaluate((case.model, case.guide), case.columns[0])


@pytest.mark.parametrize("make", [TensorDataset, lambda *c: DataLoader(TensorDataset(*c), 7)])
def test_columns_of_datasets_and_loaders_are_those_of_a_tuple(make):
    case = made("three_columns")
    expected = pyrovae.evaluate((case.model, case.guide), case.columns, 20)
    assert pyrovae.evaluate((case.model, case.guide), make(*case.columns), 20) == expected


def test_zeros_that_are_still_to_be_trained_hide_no_wrong_index():
    """At w = 0 the row that is taken does not show; the layout of particles is kept for after training."""

    def model(x):
        w = pyro.param("w", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((w * z)[:, 0, None] * torch.ones(D), S).to_event(1), obs=x)

    case = made("first_column_of_z")
    case.model, case.exact = model, None
    pyro.param("w", torch.zeros(()))
    with pytest.warns(UserWarning, match="copies of the rows"):
        pyrovae.evaluate((case.model, case.guide), case.columns, 2)
    assert pyro.param("w").item() == 0
    with torch.no_grad():
        pyro.param("w").fill_(1.0)
    case.warns = ""
    check_answers(case, "evaluate")


def test_particles_that_are_copies_train_as_one_graph():
    losses = []
    for compile in (False, "auto"):
        case = made("a_view_of_minus_1")
        few = {"epochs": 20, "objective": IWAE(5), "learning_rate": 0.02, "compile": compile}
        with pytest.warns(UserWarning, match="copies of the rows"):
            training = pyrovae.Training((case.model, case.guide), case.columns, **few)
        losses.append([record["loss"] for record in training])
    assert training.svi.path == "graph"
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][-1] < losses[1][0] - 0.5


class Endless(IterableDataset):
    """Rows of which nobody knows the number."""

    def __iter__(self):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return iter(rows())


@pytest.mark.parametrize(
    ("name", "refused"),
    [("weights_that_all_rows_share", SHARED), ("weights_that_all_rows_share_in_a_subsampled_plate", "")],
)
def test_a_stream_without_a_length_trains_what_its_plate_counts(name, refused):
    case = made(name)
    few = {"epochs": 40, "learning_rate": 1e-12, "compile": False}
    stream = DataLoader(Endless(), batch_size=8)
    if refused:
        with pytest.raises(ValueError, match=refused):
            pyrovae.fit((case.model, case.guide), stream, **few)
        return
    losses = torch.tensor([record["loss"] for record in pyrovae.fit((case.model, case.guide), stream, **few)]).double()
    args = next(iter(DataLoader(Endless(), batch_size=N)))
    theirs = torch.tensor([case.loss.loss(case.model, case.guide, args) / N for _ in range(100)]).double()
    errors = [each.std().item() / len(each) ** 0.5 for each in (losses, theirs)]
    check_close(losses.mean().item(), theirs.mean().item(), *errors)


def table():
    """What each program is answered, or refused: a row of Markdown for each."""
    questions = ("fit", "minibatches", *ALL)
    lines = [[name.replace("_", " "), *(_cell(name, question) for question in questions)] for name in PROGRAMS]
    return tabulate(lines, ["program", *questions], "pipe")


def _cell(name, question):
    if question in ALL:
        test_questions_are_answered_as_by_hand_or_refused_by_name(name, question)
    else:
        test_a_fit_has_the_loss_of_pyro(name, question)
    return "refused" if question in made(name).refused else "as Pyro"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table())
