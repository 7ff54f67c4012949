"""Write plans for MAST-Pro from those that nnU-Net made, with organ masks as a previous stage if wanted.

The new plans lie beside nnU-Net's, use its preprocessed data where the spacing is the same, and hold the whole
"mastpro" block, for you to edit. With --anatomy the table says which value of a host-organ map stands for what.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

from nnunetv2_mastpro.datasets import dataset_json_paths, label_values, read_json_object
from nnunetv2_mastpro.listing import table
from nnunetv2_mastpro.planning import DEFAULT_PLANS
from nnunetv2_mastpro.resources import nnunet_folder

TRAINER = "nnUNetTrainerMASTPro"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro plan`."""
    parser.add_argument("-d", dest="dataset", metavar="DATASET", required=True, help="id or name of an nnU-Net dataset")
    parser.add_argument(
        "-p", dest="source", metavar="PLANS", default="nnUNetPlans", help="nnU-Net's plans (default: %(default)s)"
    )
    parser.add_argument(
        "-n", dest="name", metavar="NAME", default=DEFAULT_PLANS, help="of the new plans (default: %(default)s)"
    )
    parser.add_argument("--anatomy", action="store_true", help="organ masks condition the network (mastpro anatomy)")
    parser.add_argument("--overlay", metavar="NAME", help="lay this overlay of plans/*.json over nnU-Net's plans")
    parser.add_argument("--overwrite", action="store_true", help="also where other plans have the new name")


def run(args: argparse.Namespace) -> int:
    """Writes the plans, then says what they mean and what comes next; 0 on success. Raises MASTProError."""
    from nnunetv2_mastpro.planning.overlay import write_plans

    preprocessed = nnunet_folder("nnUNet_preprocessed")
    paths = dataset_json_paths(args.dataset)
    folder = preprocessed / paths[0].parent.name
    anatomy = describe_anatomy(paths) if args.anatomy else []
    target = write_plans(folder, args.source, args.overlay, args.name, anatomy=args.anatomy, overwrite=args.overwrite)
    print("\n".join([f"wrote {target}", *anatomy, *next_commands(target, args.anatomy)]))
    return 0


def describe_anatomy(paths: list[Path]) -> list[str]:
    """The table of values, structures and classes, and what to be warned of. `paths`: copies of dataset.json.

    Training reads the preprocessed copy, the last. Raises MASTProError where no class has a host structure and where
    a map cannot tell the hosts apart.
    """
    from nnunetv2_mastpro.planning.anatomy import host_table
    from nnunetv2_mastpro.prompts.resolve import resolve_prompts

    contents = [read_json_object(path) for path in paths]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompts = resolve_prompts(contents[-1], paths[-1].parent.name)
    hosts = host_table(contents[-1], prompts)
    labels = label_values(contents[-1]).items()
    rows = [("value", "label", "structures", "classes")]
    for host in hosts:
        names = (name for name, values in labels if host.value in values)
        classes = (prompts[index].label for index in host.classes)
        rows.append((str(host.value), ", ".join(names), ", ".join(host.structures), ", ".join(classes)))
    notes = [str(warning.message) for warning in caught]
    if any(content.get("mastpro") != contents[0].get("mastpro") for content in contents):
        notes.append(
            f"the mastpro sections of {' and '.join(map(str, paths))} differ; the latter is used, as in training"
        )
    without = [prompt.label for prompt in prompts if not prompt.host_structures]
    if without:
        notes.append(
            f"no host structure: {', '.join(without)}; such a class is conditioned on the learned unknown token, and "
            "patches without any host organ cannot be skipped at prediction; host_structures in mastpro.prompts of "
            "dataset.json gives it one"
        )
    return ["", "Values of the host-organ maps:", *table(rows), *(f"warning: {note}" for note in notes)]


def next_commands(plans_file: Path, anatomy: bool) -> list[str]:
    """What to run with the plans, for 3d_fullres where there is one."""
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    from nnunetv2_mastpro.planning.anatomy import inherited

    folder, name = plans_file.parent, plans_file.stem
    configurations = json.loads(plans_file.read_text(encoding="utf-8"))["configurations"]
    configuration = "3d_fullres" if "3d_fullres" in configurations else next(iter(configurations))
    dataset = convert_dataset_name_to_id(folder.name)
    identifier = inherited(configurations, configuration, "data_identifier")
    lines = ["", "Next:"]
    if identifier is None or not any((folder / identifier).glob("*.pkl")):
        lines.append(f"  nnUNetv2_preprocess -d {dataset} -plans_name {name} -c {configuration}")
    if anatomy:
        lines.append(f"  mastpro anatomy -d {dataset} -p {name} --masks FOLDER")
    lines.append(f"  nnUNetv2_train {dataset} {configuration} 0 -p {name} -tr {TRAINER}")
    return lines
