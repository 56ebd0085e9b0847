"""How good a model is: metrics that the user can name."""
