"""Organ masks as prior: from masks of structures to one host-organ map per case (the input of Eq. 2)."""
