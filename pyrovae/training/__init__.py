"""Training for any pair of Pyro programs: the loop, SVI as one graph, batches, and the diagnosis of failures."""
