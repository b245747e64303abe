"""Clusters: the class to which a guide assigns each datum, and the agreement with labels that it has not seen."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical, OneHotCategorical
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data, blocks, known
from pyrovae.lazy import LazyModule
from pyrovae.programs.arguments import arguments
from pyrovae.programs.assumptions import laid_out
from pyrovae.programs.importance import ROWS
from pyrovae.programs.pair import Programs, no_side_effects, pair, takes_labels
from pyrovae.programs.particles import entries
from pyrovae.programs.traces import draw
from pyrovae.randomness import seeded

sklearn = LazyModule("sklearn")
scipy = LazyModule("scipy")


def responsibilities(programs: Programs, data: Data, particles: int = 16, seed: int = 0) -> Tensor:
    """q(y|x) = E_q[q(y|z, x)] for a latent class y: the mean over draws of the latents before y. (N, K)

    The cluster of a datum is argmax_y q(y|x): `responsibilities(vae, data).argmax(1)`.

    Args:
        programs: model and guide; the guide draws a class y, as a number or one-hot, if there are no labels.
        data: a Split, a tensor, a Dataset or a DataLoader; labels in them are ignored.
        particles: number of draws.
        seed: seed of the noise.

    Raises:
        ValueError: the guide has no such y.
    """
    checks.integer("particles", particles)
    found = []
    with no_side_effects(programs), seeded(seed, 6):
        for (x,) in blocks(data, ROWS):
            args = arguments(programs, x)
            with laid_out(*pair(programs), *args):
                site: Any = draw(pair(programs)[1], particles, *args).nodes.get("y", {"fn": None})
            if not isinstance(entries(site["fn"]), Categorical | OneHotCategorical):
                kind = "none" if site["fn"] is None else type(site["fn"]).__name__
                raise ValueError(f'guide: expected a categorical site "y", found {kind}')
            found.append(site["fn"].probs.mean(0).cpu())
    return torch.cat(found)


def has_clusters(programs: Programs, data: Data) -> bool:
    """Whether the guide assigns each datum to a class y without labels."""
    if takes_labels(programs):
        return False
    with no_side_effects(programs), seeded(0, 6):
        x = next(blocks(data, 1))[0]
        nodes = poutine.trace(pair(programs)[1]).get_trace(*arguments(programs, x)).nodes
        return "y" in nodes and isinstance(nodes["y"]["fn"], Categorical | OneHotCategorical)


def agreement(clusters: Tensor, labels: Tensor) -> dict[str, Any]:
    """The agreement of clusters with labels. It does not depend on how clusters and classes are numbered.

    accuracy = max_m 1/N sum_n [m(cluster_n) = label_n] over the matchings m of each cluster to a different class (Kuhn
    1955). If there are more clusters than classes, the rows of unmatched clusters count as wrong; a cluster that joins
    two classes is right for one of them. nmi = 2 I(c; l) / (H(c) + H(l)) (Strehl & Ghosh 2002); ari is the share of
    pairs that both keep together or both separate, adjusted to 0 on average for random clusters and 1 at best (Hubert &
    Arabie 1985).

    Args:
        clusters: integers (N,).
        labels: integers (N,); rows with the label -1 are omitted.

    Raises:
        ValueError: not integers (N,); different lengths; fewer than two classes among the labels.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation.clusters import agreement
        >>> result = agreement(torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 1]))
        >>> result["accuracy"], result["nmi"], result["ari"]
        (1.0, 1.0, 1.0)
    """
    clusters, labels = _integers("clusters", clusters), _integers("labels", labels)
    if len(clusters) != len(labels):
        raise ValueError(f"labels: expected one for each of {len(clusters)} rows, found {len(labels)}")
    there = known(labels)
    (names, c), (classes, y) = (each[there].unique(return_inverse=True) for each in (clusters, labels))
    if len(classes) < 2:
        raise ValueError(f"labels: expected at least two classes, found {len(classes)} in {len(y)} rows with a label")
    table = torch.bincount(c * len(classes) + y, minlength=len(names) * len(classes)).view(len(names), -1)
    rows, columns = scipy.optimize.linear_sum_assignment(table.numpy(), maximize=True)
    return {
        "rows": len(y),
        "accuracy": table[rows, columns].sum().item() / len(y),
        "nmi": float(sklearn.metrics.normalized_mutual_info_score(y, c)),
        "ari": float(sklearn.metrics.adjusted_rand_score(y, c)),
        "sizes": dict(zip(map(str, names.tolist()), table.sum(1).tolist(), strict=True)),
        "matching": dict(zip(map(str, names[rows].tolist()), classes[columns].tolist(), strict=True)),
    }


def _integers(name: str, values: Tensor) -> Tensor:
    values = torch.as_tensor(values).cpu()
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise ValueError(f"{name}: expected integers (N,), found {values.dtype} {tuple(values.shape)}")
    return values.long()
