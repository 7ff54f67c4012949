"""What nnUNet_extTrainer points at: re-exports only."""
