"""Questions to any pair of Pyro programs (model, guide): traces, particles, importance samples, refined guides."""
