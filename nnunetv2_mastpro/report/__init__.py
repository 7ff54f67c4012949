"""One self-contained HTML page about a trained model and its predictions."""
