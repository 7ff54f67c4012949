"""Several nnU-Net data sets to one, whose cases each annotate some of the classes."""
