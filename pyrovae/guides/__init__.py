"""Guide families q(z|h): modules that turn the encoder's output h into a distribution over latents.

Each is built from the latents' shape; `param_shape` is the shape that h must have.
"""

from pyrovae.guides.diagonal_normal import DiagonalNormal

__all__ = ["DiagonalNormal"]
