"""What the rows of the tables are: trainers, plans, and the paper's figures beside them; the phantoms' designs.

A cell is one row with one seed. Everything that a run depends on stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nnunetv2_mastpro.demo.design import Design, Model
from nnunetv2_mastpro.errors import MASTProError

EPOCHS = 10  # of which the trainers have a variant; steps divide by it
SECONDS_PER_STEP = {"unet": 0.9, "swin": 5.0}  # on 2 idle cores, validation included; for the budget alone
TYPES = ("liver_tumor", "kidney_tumor", "lung_tumor", "pancreas_tumor", "colon_tumor")
RING = {  # name -> what it annotates; each type in two sources of five
    "LiverKidney": ("liver_tumor", "kidney_tumor"),
    "KidneyLung": ("kidney_tumor", "lung_tumor"),
    "LungPancreas": ("lung_tumor", "pancreas_tumor"),
    "PancreasColon": ("pancreas_tumor", "colon_tumor"),
    "ColonLiver": ("colon_tumor", "liver_tumor"),
}
ALONE = {name.removesuffix("_tumor").capitalize(): (name,) for name in TYPES}  # each type in one source of five
DESIGNS = {  # number of types -> design; the first is the demo, trained for longer and tested on more cases
    3: Design(num_test=18, steps_per_epoch=60),
    5: Design(types=TYPES, sources=RING, num_training=16, num_test=12, folds=16, steps_per_epoch=200),
}
OVERLAYS = {"unet": "demo", "swin": "demo_swin"}  # the patch is the whole volume
PATCHES = "demo_patches"  # the demo's, of half a volume


@dataclass(frozen=True)
class Row:
    """A row of a table. `complete`: trained where every source annotates all. `paper`: the row's name there.

    `network`: keys of mastpro.network that differ. `selected`: predicted by the row `mastpro`, one type at a time.
    `sts`: also of use with one class and no organ masks.
    """

    key: str
    title: str
    trainer: str
    anatomy: bool = False
    complete: bool = False
    selected: bool = False
    network: Mapping = field(default_factory=dict)
    paper: str | None = None
    sts: bool = False


MASTPRO = Row("mastpro", "MAST-Pro", "nnUNetTrainerMASTPro", anatomy=True, paper="Ours")


def without(key: str, title: str, name: str, paper: str | None = None, sts: bool = False) -> Row:
    return Row(key, title, f"nnUNetTrainerMASTPro{name}", anatomy=True, paper=paper, sts=sts)


ROWS = {
    "table1": (
        Row("complete", "stock nnU-Net, AdamW, everything annotated", "nnUNetTrainerStockAdamW", complete=True),
        Row("stock_sgd", "stock nnU-Net with its own SGD", "nnUNetTrainerStock", paper="nnU-Net", sts=True),
        Row("stock", "stock nnU-Net, AdamW", "nnUNetTrainerStockAdamW", sts=True),
        Row("partial", "fixed head, partial-label loss", "nnUNetTrainerStockPartial", paper="Swin UNETR"),
        Row("universal", "Universal Model's head", "nnUNetTrainerUniversal", paper="Universal Model", sts=True),
        Row("text", "MAST-Pro, text only", "nnUNetTrainerMASTPro", sts=True),
        MASTPRO,
        Row("selected", "MAST-Pro, true type selected", "nnUNetTrainerMASTPro", anatomy=True, selected=True),
    ),
    "table2": (
        without("none", "- / - / -", "NoTextNoAnatomyNoExperts", "- / - / -", True),
        without("ap", "AP / - / -", "NoTextNoExperts", "AP / - / -"),
        without("tp", "- / TP / -", "NoAnatomyNoExperts", sts=True),
        without("experts", "- / - / D-MoE", "NoTextNoAnatomy", "- / - / D-MoE", True),
        without("ap_tp", "AP / TP / -", "NoExperts"),
        without("ap_experts", "AP / - / D-MoE", "NoText"),
        without("tp_experts", "- / TP / D-MoE", "NoAnatomy", sts=True),
        replace(MASTPRO, title="AP / TP / D-MoE"),
        without("shuffled", "AP / TP shuffled / D-MoE", "ShuffledText"),
    ),
}
CHOICES = {  # expert count and k, and who chooses; like all of EXTRA not among the rows unless named
    "k1": {"top_k_generic": 1},
    "k3": {"top_k_generic": 3, "top_k_specific": 2},
    "few": {"generic_experts": 2, "specific_experts": 1, "top_k_generic": 1},
    "many": {"generic_experts": 8, "specific_experts": 4, "top_k_generic": 2},
    "joint": {"router": "joint"},
    "token": {"routing": "token"},
}
EXTRA = {
    "table1": (Row("sgd", "MAST-Pro with nnU-Net's SGD", "nnUNetTrainerMASTProSGD", anatomy=True, sts=True),),
    "table2": tuple(
        Row(key, ", ".join(f"{name} {value}" for name, value in block.items()), MASTPRO.trainer, True, network=block)
        for key, block in CHOICES.items()
    ),
}
PAPER = {  # mean DSC (%) of Tables 1 and 2, over its eight data sets
    "table1": {
        "nnU-Net": 60.16,
        "Swin UNETR": 61.10,
        "Med-SAM3D": 43.98,
        "MA-SAM": 55.53,
        "SegVol": 60.84,
        "Universal Model": 62.79,
        "ZePT": 63.51,
        "Ours": 68.71,
    },
    "table2": {"- / - / -": 61.10, "AP / - / -": 63.47, "- / - / D-MoE": 63.01, "Ours": 68.71},
}


def rows_of(table: str, names: list[str] | None, sts: bool = False) -> list[Row]:
    """The rows to run, those that `names` names if any. Raises MASTProError for an unknown one."""
    known = {row.key: row for row in (*ROWS[table], *EXTRA[table])}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise MASTProError(f"--cells names {unknown[0]!r}, which {table} does not have; known: {', '.join(known)}")
    rows = [known[name] for name in names] if names else list(ROWS[table])
    kept = [row for row in rows if row.sts] if sts else rows
    if not kept:
        raise MASTProError("none of --cells is of use with one class and no organ masks; leave --cells out")
    return kept


def model_of(row: Row) -> Model:
    """As the demo's steps take it."""
    plans = f"MASTProPlans{row.key.capitalize()}" if row.network else None
    return Model(row.key, row.title, f"{row.trainer}_{EPOCHS}epochs", anatomy=row.anatomy, other_plans=plans)


def design_of(
    types: int,
    steps: int | None,
    cases: int | None,
    backbone: str,
    complete: bool,
    alone: bool = False,
    patches: bool = False,
) -> Design:
    """`alone`: each source annotates one type. Raises MASTProError for steps that the epochs do not divide."""
    chosen = DESIGNS[types]
    if alone:
        chosen = replace(chosen, sources=ALONE)
    steps = steps or EPOCHS * chosen.steps_per_epoch
    if steps % EPOCHS or steps < EPOCHS:
        raise MASTProError(f"--steps {steps} is not a multiple of {EPOCHS}, the number of epochs; give one")
    cases = cases or chosen.num_training
    return replace(
        chosen,
        steps_per_epoch=steps // EPOCHS,
        num_training=cases,
        folds=cases,  # nnU-Net then validates on about one case of each source, and the unseen cases are what counts
        overlay=PATCHES if patches else OVERLAYS[backbone],
        annotates_all=complete,
    )
