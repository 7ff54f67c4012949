"""Weights of other networks as a start for training, and trained parts without their frozen base."""
