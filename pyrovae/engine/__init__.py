"""A function of tensors as one graph. Private parts of torch are used only here."""
