"""Table 2 of the paper, as far as a phantom goes: anatomical prompts (AP), text prompts (TP) and D-MoE taken away.

    python -m benchmarks.table2 -o OUT [--seeds 0 1 2] [--cells none tp mastpro] [--types 3] [--backbone swin]
    python -m benchmarks.table2 -o OUT --cells k1 k3 few many                  # expert count and k
    python -m benchmarks.table2 -o OUT --sts DATA
    python -m benchmarks.table2 -o OUT --datasets 3 6 7 10 --folds 0 --anatomy-plans MASTProPlans
    python -m benchmarks.table2 -o OUT --summarise

Every row is a trainer of the same plans, with organ masks; what is ablated is replaced, see docs/decisions.md. With -o
of table1 its cells of the whole network serve both. By default five types, five sources of 16 cases, 2000 steps. Each
cell is kept in OUT/cells and is not run again; OUT/table2.md, .csv and .png are of those that are finished.
"""

from benchmarks.table import main

if __name__ == "__main__":
    main("table2", __doc__)
