"""Tumour types that come to a trained model: added by training, or unpacked from files."""
