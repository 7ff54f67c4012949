"""Experiments as data: plans/recipes/*.json -> commands."""
