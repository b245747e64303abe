"""What a model looks like: what it generates, reconstructs and encodes, and its program."""

import networkx
import torch
from matplotlib.figure import Figure
from pyro.infer.inspect import get_model_relations

from pyrovae import plots
from pyrovae.data import Split
from pyrovae.data.split import ROWS, blocks
from pyrovae.inference import expectation, reconstruct
from pyrovae.models import VAE
from pyrovae.programs import answering, placement
from pyrovae.randomness import seeded


def draw(vae: VAE, split: Split, seed: int = 0) -> dict[str, Figure]:
    """The figures of a model by their names, on held-out data. The seed is of the noise in them."""
    with seeded(seed, 3), answering(vae):
        figures = {"program": _program(vae, split)}
        figures |= _image_figures(vae, split) if len(vae.event_shape) == 3 else _vector_figures(vae, split)
        figures["latents"] = _latents(vae, split)
    return figures


def _image_figures(vae: VAE, split: Split) -> dict[str, Figure]:
    x = split[:12].to(*placement(vae))
    z = vae.p_z().expand((64,)).sample()
    few = min(6, len(x))
    drawn = vae.q_z(x[:few]).expand((10, few)).sample().transpose(0, 1)
    ends = expectation(vae.q_z(x))
    path = torch.stack([torch.lerp(ends[:few], ends[-few:], share) for share in torch.linspace(0, 1, 10).tolist()], 1)
    return {
        "samples": plots.image_grids(
            {"samples $x \\sim p(x)$": vae.p_x(z).sample(), "their means $E[x|z]$": vae.p_x(z).mean}
        ),
        "reconstructions": plots.image_rows({"$x$": x, "$E[x|z]$": reconstruct(vae, x)}),
        "variations": plots.image_table(
            {"$x$": x[:few, None], "$E[x|z]$ for draws $z \\sim q(z|x)$": vae.p_x(drawn).mean}
        ),
        "interpolation": plots.image_table(
            {
                "$x$": x[:few, None],
                "$E[x|z]$ from $E_q[z|x]$ to $E_q[z|x']$": vae.p_x(path).mean,
                "$x'$": x[-few:, None],
            }
        ),
    }


def _vector_figures(vae: VAE, split: Split) -> dict[str, Figure]:
    x = split[:1000].to(*placement(vae))
    return {
        "samples": plots.marginals(x.numpy(), vae.sample(len(x)).numpy()),
        "reconstructions": plots.agreement(x.numpy(), reconstruct(vae, x).numpy()),
    }


def _latents(vae: VAE, split: Split, side: int = 20) -> Figure:
    codes = torch.cat([expectation(vae.q_z(x.to(*placement(vae)))) for x in blocks(split, ROWS)])
    labels = None if split.y is None or split.y.ndim > 1 else split.y[: len(codes)].numpy()
    if codes.shape[1] == 1:
        codes = torch.cat([codes, torch.zeros_like(codes)], 1)
    if codes.shape[1] > 2:
        return plots.latent_pca(codes.numpy(), labels)
    if vae.latent_shape != (2,) or len(vae.event_shape) != 3 or hasattr(vae.prior, "space"):
        return plots.latent_plane(codes.numpy(), labels, None)
    axis = torch.linspace(-3, 3, side).to(codes)
    grid = torch.stack(torch.meshgrid(axis, axis.flip(0), indexing="xy"), -1)
    return plots.latent_plane(codes.numpy(), labels, vae.p_x(grid).mean.numpy())


def _program(vae: VAE, split: Split) -> Figure:
    relations = get_model_relations(vae.model, (split[:2].to(*placement(vae)),))
    graph = networkx.DiGraph()
    graph.add_nodes_from(relations["sample_sample"])
    graph.add_edges_from(
        (tail, head) for head, tails in relations["sample_sample"].items() for tail in tails if tail != head
    )
    levels = {site: level for level, sites in enumerate(networkx.topological_generations(graph)) for site in sites}
    return plots.program_graph(levels, list(graph.edges), relations["observed"], "N")
