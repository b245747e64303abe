"""Densities that torch and Pyro lack, one a file."""

__all__: list[str] = []
