"""A function of tensors as one graph. What is private in torch is used here alone."""
