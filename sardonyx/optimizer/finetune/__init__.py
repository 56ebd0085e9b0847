"""Training what pruning left, in PyTorch, against the outputs of the original."""
