"""The true posterior of a few data, by Pyro's NUTS, for comparison with the guide."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from pyro.infer.mcmc import MCMC, NUTS
from pyro.infer.mcmc.util import diagnostics
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data
from pyrovae.evaluation.bridge import Bridge
from pyrovae.programs.importance import places
from pyrovae.programs.pair import Programs
from pyrovae.randomness import seeded

NOISE = 5  # the last entry of the chains' seeds


class Posterior(NamedTuple):
    """Draws from p(z|x) for each latent site, and Pyro's diagnostics of the chains."""

    draws: dict[str, Tensor]  # (N, chains, draws, *latent_shape)
    r_hat: dict[str, Tensor]  # for each latent; above 1.01 the chains disagree. (N, *latent_shape)
    ess: dict[str, Tensor]  # effective number of draws of all chains together. (N, *latent_shape)


def posterior(
    programs: Programs, data: Data, draws: int = 500, warmup: int = 300, chains: int = 4, seed: int = 0
) -> Posterior:
    """z ~ p(z|x) = p(x, z) / p(x) for each datum, by the no-U-turn sampler.  (Hoffman & Gelman 2014)

    Each chain begins at a draw from p(z). It handles one datum after the other, with some hundred runs of the model for
    each draw: use it for tens of data, not for thousands. Latents that the guide enumerates are summed out.

    Args:
        programs: model and guide; the guide only determines which latents are enumerated.
        data: as in `evaluate`, few.
        draws: draws of each chain after the warm-up.
        warmup: draws in which step size and scales are adapted; they are dropped.
        chains: runs from different starts, which R-hat compares (Gelman & Rubin 1992).
        seed: seed of the noise.

    Raises:
        ValueError: as in `anneal`.

    Example:
        >>> from pyrovae.evaluation.nuts import posterior
        >>> result = posterior(vae, x[:5])  # doctest: +SKIP
        >>> result.draws["z"].shape  # data, chains, draws, latents  # doctest: +SKIP
    """
    checks.integer("draws", draws, 4)  # R-hat needs at least 4
    checks.integer("warmup", warmup)
    checks.integer("chains", chains)
    found, order = [], []
    for place, rows, args in places(programs, data, seed, 1):
        bridge = Bridge(programs, args)
        each = [_chain(bridge, draws, warmup, (seed, place, chain, NOISE)) for chain in range(chains)]
        found.append(_stacked(each))
        order.append(rows)
    told = [diagnostics(each) for each in found]
    of = partial(_by_site, place=torch.cat(order).argsort())
    r_hat, ess = (of([{name: by[kind] for name, by in each.items()} for each in told]) for kind in ("r_hat", "n_eff"))
    return Posterior(of(found), r_hat, ess)


def _chain(bridge: Bridge, draws: int, warmup: int, seed: tuple[int, ...]) -> dict[str, Tensor]:
    """Draws of one chain for one datum. (draws, *latent_shape)"""

    def energy(at: dict[str, Tensor]) -> Tensor:
        _, joint, log_det = bridge(at["u"][None, None])
        return -(joint + log_det).sum()

    with seeded(*seed), torch.enable_grad():
        start = {"u": bridge.draw(1)[0, 0]}
        mcmc = MCMC(NUTS(potential_fn=energy), draws, warmup, start, disable_progbar=True)
        mcmc.run()
    z, _ = bridge.reals.constrain(mcmc.get_samples()["u"].detach()[:, None])
    return {name: values[:, 0] for name, values in z.items()}


def _stacked(of: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in of]) for name in of[0]}


def _by_site(of: Sequence[dict[str, Tensor]], place: Tensor) -> dict[str, Tensor]:
    return {name: values[place].cpu() for name, values in _stacked(of).items()}
