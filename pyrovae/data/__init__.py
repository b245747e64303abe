"""Data in the likelihood's support: one function a dataset, and the splits that training and evaluation read."""

from pyrovae.data.load import DATASETS, from_arrays, load
from pyrovae.data.split import Split, Splits, with_labels

__all__ = ["DATASETS", "Split", "Splits", "from_arrays", "load", "with_labels"]
