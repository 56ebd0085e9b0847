"""Targets and bundles: how a model leaves this machine."""
