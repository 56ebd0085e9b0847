"""Operators: one obvious place each, in the file of their family."""
