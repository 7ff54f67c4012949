"""MAST-Pro for nnU-Net v2: mixtures of low-rank experts, text prompts and a generated head."""

__version__ = "0.1.0"
