"""The planar transform."""

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn import functional as F  # noqa: N812


class Planar(Transform):
    """y = x + u' tanh(w.x + b), with u' = u shifted along w so that w.u' > -1.  (Rezende & Mohamed 2015, appendix A.1)

    The bound on w.u' makes the map invertible, but the inverse has no closed form: `inv` works only for the latest
    output.

    Args:
        u, w: (..., d).
        b: (...).

    Example:
        >>> import torch
        >>> from pyrovae.distributions import Planar
        >>> f = Planar(u=torch.tensor([1.0, 0.0]), w=torch.tensor([1.0, 0.0]), b=torch.tensor(0.0))
        >>> x = torch.zeros(2)
        >>> f.log_abs_det_jacobian(x, f(x)).exp()  # 1 + w.u' tanh'(0) = log(1 + e)
        tensor(1.3133)
    """

    domain = codomain = constraints.real_vector
    bijective = False  # in torch's sense: `inv` fails for any value but the latest output

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__(cache_size=1)
        dot = (w * u).sum(-1, keepdim=True)
        missing = F.softplus(dot) - 1 - dot
        tiny = torch.finfo(w.dtype).tiny
        self.u = u + missing * w / w.square().sum(-1, keepdim=True).clamp_min(tiny)
        self.w, self.b = w, b

    def _angle(self, x: Tensor) -> Tensor:
        return ((self.w * x).sum(-1) + self.b).tanh()

    def _call(self, x: Tensor) -> Tensor:
        return x + self.u * self._angle(x)[..., None]

    def _inverse(self, y: Tensor) -> Tensor:
        raise ValueError("expected the last sample of this planar flow, found another value: it has no inverse")

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return ((1 - self._angle(x).square()) * (self.w * self.u).sum(-1)).log1p()
