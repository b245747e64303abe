"""Data in the likelihood's support: a function for each dataset, and the splits that training and evaluation read."""

from pyrovae.data.load import DATASETS, from_arrays, load
from pyrovae.data.split import Split, Splits, at_random, subset, with_labels

__all__ = ["DATASETS", "Split", "Splits", "at_random", "from_arrays", "load", "subset", "with_labels"]
