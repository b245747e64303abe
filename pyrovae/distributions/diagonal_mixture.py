"""The mixture of diagonal normals, with reparametrised samples."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor


class DiagonalMixture(dist.MixtureSameFamily):
    """q(z) = sum_k w_k Normal(z; m_k, diag(s_k^2)), with samples that are differentiable in w, m and s.

    The gradients are implicit: dz_i = -dF_i / (dF_i/dz_i), where F_i is the mass of q(z_i | z_1, ..., z_i-1) below z_i.
    They are the gradients of a sample that is made from fixed uniforms F.  (Figurnov, Mohamed & Mnih 2018) Pyro's
    MixtureOfDiagNormals is not used, because its gradients of the weights are wrong in Pyro 1.9.2.

    Args:
        mixture_distribution: Categorical (..., K).
        component_distribution: Normal (..., K, d), with event dimension 1.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.distributions import DiagonalMixture
        >>> w = torch.zeros(2, requires_grad=True)
        >>> q = DiagonalMixture(dist.Categorical(logits=w), dist.Normal(torch.tensor([[-1.0], [1.0]]), 1.0).to_event(1))
        >>> q.rsample((10000,)).mean().backward()
        >>> w.grad.round(decimals=1)  # d E[z] / dw, with E[z] = tanh((w_2 - w_1) / 2)
        tensor([-0.5000,  0.5000])
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
