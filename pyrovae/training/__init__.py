"""Training any pair of Pyro programs: the loop, SVI as one graph, batches, and what went wrong."""
