"""Table 1 of the paper, as far as a phantom goes: one network over sources that each annotate some tumour types.

    python -m benchmarks.table1 -o OUT [--seeds 0 1 2] [--cells stock partial mastpro] [--types 3] [--backbone swin]
    python -m benchmarks.table1 -o OUT --alone [--seeds 0 1 2] [--cells stock partial mastpro]
    python -m benchmarks.table1 -o OUT --patches --types 3 --cells stock partial text mastpro
    python -m benchmarks.table1 -o OUT --sts DATA
    python -m benchmarks.table1 -o OUT --datasets 3 6 7 10 --folds 0 -p nnUNetPlans --anatomy-plans MASTProPlans
    python -m benchmarks.table1 -o OUT --summarise

Stock nnU-Net takes what a source does not annotate for background, as the merged labels have it. The fixed head with
partial labels, the Universal Model's head and MAST-Pro have the partial-label loss and the plugin's draws of cases; all
but one row have the same optimizer, and all have the same network, data and steps. `complete` is stock nnU-Net on the
same patients with everything annotated: what the phantom allows. `selected` predicts with MAST-Pro, one type at a time.

By default five types, five sources of 16 cases that annotate two types each (--alone: one), 2000 steps, 12 unseen cases
with everything annotated. Each cell is kept in OUT/cells and is not run again; OUT/table1.md, .csv and .png are of
those that are finished.
"""

from benchmarks.table import main

if __name__ == "__main__":
    main("table1", __doc__)
