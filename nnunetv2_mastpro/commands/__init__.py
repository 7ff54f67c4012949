DEVICES = ("cuda", "cpu", "mps")  # what nnU-Net's own -device takes
