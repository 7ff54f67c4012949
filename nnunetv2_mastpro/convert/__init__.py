"""Data sets as they are downloaded -> nnU-Net's raw format."""
