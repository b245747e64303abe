"""The mixture of diagonal normals, reparametrised."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor


class DiagonalMixture(dist.MixtureSameFamily):
    """q(z) = sum_k w_k Normal(z; m_k, diag(s_k^2)), with samples that are differentiable in w, m and s.

    The gradients are implicit ones: dz_i = -dF_i / (dF_i/dz_i), where F_i is the mass of q(z_i | z_1, ..., z_i-1) below
    z_i: those of a sample made from fixed uniforms F.  (Figurnov, Mohamed & Mnih 2018) Pyro's MixtureOfDiagNormals is
    not used: in Pyro 1.9.2 its gradients of the weights are wrong.

    Args:
        mixture_distribution: Categorical (..., K).
        component_distribution: Normal (..., K, d), of event dimension 1.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (an immutable tuple)
        log_weight, normal = self.mixture_distribution.logits, self.component_distribution.base_dist
        values = []
        for i, start in enumerate(self.sample(sample_shape).split(1, -1)):
            part = dist.Normal(normal.loc[..., i], normal.scale[..., i])
            weight = log_weight.softmax(-1)
            below = (weight * part.cdf(start)).sum(-1, keepdim=True)
            density = (weight * part.log_prob(start).exp()).sum(-1, keepdim=True).detach()
            density = density.clamp_min(torch.finfo(density.dtype).tiny)
            values.append(start - (below - below.detach()) / density)  # the value is `start`
            log_weight = log_weight + part.log_prob(values[-1])  # of the components, given the values so far
        return torch.cat(values, -1)
