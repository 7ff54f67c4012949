"""What becomes of predictions."""
