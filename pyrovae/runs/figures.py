"""Figures of a model: its samples, reconstructions and codes, and its program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import get_model_relations
from torch import Tensor

from pyrovae import plots
from pyrovae.data import Split
from pyrovae.data.split import ROWS, at_random, blocks, known
from pyrovae.evaluation.clusters import agreement, has_clusters, responsibilities
from pyrovae.lazy import LazyModule
from pyrovae.likelihoods import OneHotCategorical
from pyrovae.priors import Prior
from pyrovae.programs.columns import arguments_of, by_kind, wanted
from pyrovae.programs.importance import expectation, in_order, reconstruct
from pyrovae.programs.pair import Program, Programs, classifies, no_side_effects, pair, takes_labels
from pyrovae.programs.traces import sites, traces
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

networkx = LazyModule("networkx")


def draw(programs: Programs, split: Split, seed: int = 0) -> dict[str, Figure]:
    """The figures of a model by name, on held-out data. The seed is for the noise in them.

    For a model with latents that all rows share (`BayesianVAE`) they show the model `at` the mean of these latents.
    """
    at = traits(programs).at
    programs = programs if at is None else at()
    with seeded(seed, 3), no_side_effects(programs):
        figures = {"program": _program(programs, split)}
        images = len(split.event_shape) == 3
        if traits(programs).complete is not None:
            figures |= {"completions": _completions(programs, split)} if images else {}
        else:
            figures |= (_image_figures if images else _vector_figures)(programs, split)
        codes = _codes(programs, split)
        figures |= _latents(programs, split, codes)
        if has_clusters(programs, split):
            figures |= _clusters(programs, split, codes)
    return figures


def _rows(programs: Programs, split: Split, n: int) -> tuple[Tensor, ...]:
    """The programs' arguments for n random rows; if labels are used and known, rows with labels."""
    some = at_random(len(split), ROWS)
    columns = [column[some] for column in split.columns[: len(wanted(programs).names)]]
    _, part = next(by_kind(programs, split[some], *columns))
    return arguments_of(programs, *(each[at_random(len(each), n)] for each in part))


def _generated(programs: Programs, n: int, given: dict[str, Any] | None = None, **labels: Any) -> dict[str, Any]:
    """The sites of the model run for n new rows, with these given latents."""
    model = poutine.condition(pair(programs)[0], given or {})
    return poutine.trace(model).get_trace(n=n, **labels).nodes


def _image_figures(programs: Programs, split: Split) -> dict[str, Figure]:
    model, guide = pair(programs)
    x, *y = args = _rows(programs, split, 12)
    few = min(6, len(x))
    labels: dict[str, Any] = {} if not y or traits(programs).label is not None else {"y": _rows(programs, split, 64)[1]}
    made = _generated(programs, min([64, *map(len, labels.values())]), **labels)["x"]
    drawn: Any = traces(model, guide, 10, *(each[:few] for each in args))[1].nodes["x"]["fn"]
    figures = {
        "samples": plots.image_grids(
            {"samples $x \\sim p(x)$": made["value"], "their means $E[x|z]$": made["fn"].mean}
        ),
        "reconstructions": plots.image_rows({"$x$": x, "$E[x|z]$": reconstruct(programs, *args)}),
        "variations": plots.image_table(
            {"$x$": x[:few, None], "$E[x|z]$ for draws $z \\sim q(z|x)$": drawn.mean.transpose(0, 1)}
        ),
    }
    ends = {
        name: expectation(site["fn"])[0]
        for name, site in sites(traces(model, guide, 1, *args)[0], False).items()
        if not site["fn"].support.is_discrete
    }
    return figures | (_labelled(programs, args, ends) if y else {"interpolation": _interpolation(programs, x, ends)})


def _completions(programs: Programs, split: Split) -> Figure:
    """The seen part s of images, and possible completions: E[x|z, s] at draws of the prior, with the truth."""
    (x,) = _rows(programs, split, 10)
    unseen: Any = traits(programs).likelihood
    with pyro.plate("completions", 8, dim=-2):
        p_x: Any = poutine.trace(pair(programs)[0]).get_trace(s=x).nodes["x"]["fn"]
    grey, means = torch.where(unseen.mask, x, 0.5), p_x.mean.transpose(0, 1)
    may_be = "$E[x|z, s]$ for draws $z \\sim p(z|s)$"
    return plots.image_table({"seen": grey[:, None], may_be: means, "truth": x[:, None]})


def _interpolation(programs: Programs, x: Tensor, ends: dict[str, Tensor]) -> Figure:
    few, shares = min(6, len(x)), torch.linspace(0, 1, 10).tolist()
    path = {
        name: torch.stack([torch.lerp(z[:few], z[-few:], share) for share in shares], 1).flatten(0, 1)
        for name, z in ends.items()
    }
    means = _generated(programs, few * len(shares), path)["x"]["fn"].mean.unflatten(0, (few, len(shares)))
    between = "$E[x|z]$ from $E_q[z|x]$ to $E_q[z|x']$"
    return plots.image_table({"$x$": x[:few, None], between: means, "$x'$": x[-few:, None]})


def _labelled(programs: Programs, args: tuple[Tensor, ...], ends: dict[str, Tensor]) -> dict[str, Figure]:
    """Each class at the same latents: latents of new draws, and latents of images, whose style the classes adopt."""
    x, y = args
    if not isinstance(traits(programs).label, OneHotCategorical):
        return {}
    classes = torch.eye(y.shape[-1]).to(y)
    few, count = min(6, len(x)), min(len(classes), 20)

    def decoded(latents: dict[str, Tensor], each: Tensor) -> Tensor:
        return _generated(programs, len(each), latents, y=each)["x"]["fn"].mean

    new = _generated(programs, count, y=y[:1].expand(count, -1))
    shared = {name: new[name]["value"] for name in ends}
    grid = torch.stack([decoded(shared, row.expand(count, -1)) for row in classes[:count]])
    styles = torch.stack([decoded({k: v[:few] for k, v in ends.items()}, row.expand(few, -1)) for row in classes], 1)
    return {
        "classes": plots.named_table(
            [f"y = {each}" for each in range(count)], {"$E[x|z, y]$: a class a row, one $z$ a column": grid}
        ),
        "transfer": plots.image_table(
            {"$x$": x[:few, None], f"$E[x|z, y]$ at its $E_q[z|x, y]$, for y = 0, ..., {count - 1}": styles[:, :count]}
        ),
    }


def _vector_figures(programs: Programs, split: Split) -> dict[str, Figure]:
    x, *y = args = _rows(programs, split, 1000)
    made = _generated(programs, len(x), None, **dict(zip("y", y, strict=False)))["x"]["value"]
    return {
        "samples": plots.marginals(x.numpy(), made.numpy()),
        "reconstructions": plots.agreement(x.numpy(), reconstruct(programs, *args).numpy()),
    }


def _codes(programs: Programs, split: Split) -> dict[str, Tensor]:
    """E_q[z|x] of each latent site that is not a class, for the rows in their order."""
    codes: dict[str, list[Tensor]] = {}
    places: list[Tensor] = []
    for number, block in enumerate(blocks(split, ROWS, wanted(programs))):
        for rows, part in by_kind(programs, *block):
            places.append(rows + number * ROWS)
            q, _ = traces(*pair(programs), 1, *arguments_of(programs, *part))
            for name, site in sites(q, False).items():
                if not site["fn"].support.is_discrete:
                    codes.setdefault(name, []).append(expectation(site["fn"])[0])
    return {name: in_order(each, places) for name, each in codes.items()}


def _labels(split: Split) -> Tensor | None:
    """One number for each row that determines its colour."""
    return split.y if isinstance(split.y, Tensor) and split.y.ndim == 1 else None


def _latents(programs: Programs, split: Split, codes: dict[str, Tensor], side: int = 20) -> dict[str, Figure]:
    """The codes of each latent site; with two latents, also the decoded plane."""
    return {
        "latents" if len(codes) == 1 else f"latents-{name}": _plane(programs, split, name, each, _labels(split), side)
        for name, each in codes.items()
    }


def _clusters(programs: Programs, split: Split, codes: dict[str, Tensor]) -> dict[str, Figure]:
    """The codes by cluster and by label; for images also what each cluster generates, and its most certain images."""
    share, labels = responsibilities(programs, split), _labels(split)
    by = {r"cluster $\mathrm{argmax}_y\, q(y|x)$": _as_matched(share.argmax(1), labels).numpy()}
    by |= {} if labels is None else {"label": labels.numpy()}
    z = torch.cat(list(codes.values()), 1)
    points = (z - z.mean(0)) @ torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:2].T
    axes = [f"principal component {number} of $E_q[z|x]$" for number in (1, 2)]
    figures = {"clusters": plots.colourings(points.numpy(), by, *axes)} if points.shape[1] == 2 else {}
    return figures | (_cluster_images(programs, split, share) if len(split.event_shape) == 3 else {})


def _as_matched(clusters: Tensor, labels: Tensor | None) -> Tensor:
    """Clusters numbered by the labels that they match, so that both have the same colour; unmatched ones come last."""
    if labels is None or labels.is_floating_point() or len(labels[known(labels)].unique()) < 2:
        return clusters
    matching = agreement(clusters, labels)["matching"]
    after = int(labels.max()) + 1
    return torch.tensor([matching.get(str(each), after + each) for each in clusters.tolist()])


def _cluster_images(programs: Programs, split: Split, share: Tensor) -> dict[str, Figure]:
    sizes, few = share.argmax(1).bincount(minlength=share.shape[1]), min(8, len(share))
    largest = sizes.argsort(descending=True)[:20]
    p_y: Any = _generated(programs, 1)["y"]["fn"]
    y = p_y.enumerate_support(expand=False).flatten(0, 1)[largest]
    means = _generated(programs, few * len(y), {"y": y.repeat_interleave(few, 0)})["x"]["fn"].mean
    surest = share[:, largest].topk(few, 0).indices.T
    names = [f"{each}: {size / len(share):.0%}" for each, size in zip(largest.tolist(), sizes[largest], strict=True)]
    panels = {
        r"$E[x|z]$ for draws $z \sim p(z|y)$": means.unflatten(0, (len(y), few)),
        "$x$ of the highest $q(y|x)$": split[surest.flatten()].unflatten(0, (len(y), few)),
    }
    return {"cluster-images": plots.named_table(names, panels)}


def _plane(programs: Programs, split: Split, name: str, codes: Tensor, labels: Tensor | None, side: int) -> Figure:
    kinds = None if labels is None else labels.numpy()
    one_layer = not takes_labels(programs) and traits(programs).complete is None
    if codes.shape[1] == 1:
        codes = torch.cat([codes, torch.zeros_like(codes)], 1)
    elif codes.shape[1] > 2:
        return plots.latent_pca(codes.numpy(), kinds, name)
    elif len(split.event_shape) == 3 and one_layer and _is_real(programs):
        axis = torch.linspace(-3, 3, side).to(codes)
        grid = torch.stack(torch.meshgrid(axis, axis.flip(0), indexing="xy"), -1)
        means = _generated(programs, side * side, {name: grid.flatten(0, 1)})["x"]["fn"].mean
        return plots.latent_plane(codes.numpy(), kinds, means.unflatten(0, (side, side)).numpy(), site=name)
    return plots.latent_plane(codes.numpy(), kinds, None, site=name)


def _program(programs: Programs, split: Split) -> Figure:
    """The graph of both programs, run on rows without labels if the guide allows it: then y is a latent."""
    model, guide = pair(programs)
    args = _rows(programs, split, 2)[: 1 if classifies(programs) else None]
    given = dict(zip("xy", args, strict=False))

    def inferring(*values: Tensor) -> None:
        guide(*(pyro.deterministic(name, value) for name, value in zip(given, values, strict=True)))

    edges = _edges(model, args)
    try:
        inferred = _edges(inferring, args)
    except ValueError:  # a flow without an inverse can score its sample only as it was drawn
        inferred = [(x, z) for x in given for z in sites(traces(model, guide, 1, *args)[0], False)]
    graph = networkx.DiGraph(edges)
    graph.add_nodes_from(given)  # without latents the graph would be empty
    levels = {site: level for level, sites in enumerate(networkx.topological_generations(graph)) for site in sites}
    return plots.program_graph(levels, edges, inferred, list(given), "N")


def _edges(program: Program, args: tuple[Tensor, ...]) -> list[tuple[str, str]]:
    """(parent, child) pairs of the sites of a program."""
    relations = get_model_relations(program, args, include_deterministic=True)["sample_sample"]
    return [(parent, child) for child, parents in relations.items() for parent in parents if parent != child]


def _is_real(programs: Programs) -> bool:
    """Whether z may be any real vector, according to the prior."""
    prior = traits(programs).prior
    return prior is None or prior.space == Prior.space
