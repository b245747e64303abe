"""The network of the benches in plain torch, and other libraries' programs around it. Nothing of ours is imported."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer of ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def pyro_programs(
    encoder: nn.Module, decoder: nn.Module, latent_dim: int, event_dim: int
) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """Model and guide as Pyro's VAE example writes them."""
    import pyro
    import pyro.distributions as dist

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), latent_dim), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=decoder(z)).to_event(event_dim), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_variance = encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1))

    return model, guide


def pythae_vae(encoder: nn.Module, decoder: nn.Module, latent_dim: int, event_shape: tuple[int, ...]) -> Any:
    """pythae's VAE, with these networks inside."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    return VAE(VAEConfig(event_shape, latent_dim=latent_dim, reconstruction_loss="bce"), Encoder(), Decoder())
