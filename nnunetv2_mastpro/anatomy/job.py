"""`mastpro anatomy`: which cases, which table, which source of masks; checks first, then maps."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from nnunetv2_mastpro.anatomy import preprocessed
from nnunetv2_mastpro.anatomy.cases import Case, dataset_cases, predicted_cases, read_dataset, read_model
from nnunetv2_mastpro.anatomy.given import hosts_of, is_unfinished
from nnunetv2_mastpro.anatomy.preprocessed import table_of
from nnunetv2_mastpro.anatomy.source import Source
from nnunetv2_mastpro.anatomy.writing import MapRecord, write_maps
from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import read_geometry
from nnunetv2_mastpro.label_maps import files_of
from nnunetv2_mastpro.listing import nearest, some, table
from nnunetv2_mastpro.planning import DEFAULT_PLANS
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE, anatomy_data, plans_files
from nnunetv2_mastpro.processes import number_of_processes
from nnunetv2_mastpro.prompts.resolve import foreground_labels
from nnunetv2_mastpro.resources import nnunet_folder

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

MAX_DILATION_MM = 100
IMAGES = (".b2nd", ".npz")  # as nnU-Net stores preprocessed cases, each with a .pkl


@dataclass(frozen=True)
class Form:
    """Preprocessed data of a configuration with the anatomy stage."""

    data: Path
    configuration: ConfigurationManager
    num_cases: int


def make_maps(args: Namespace) -> int:
    """The command. Raises MASTProError: for names, headers and tables before anything is written, else when read."""
    if not 0 <= args.dilate_mm <= MAX_DILATION_MM:
        raise MASTProError(f"--dilate-mm {args.dilate_mm:g} is not within 0 and {MAX_DILATION_MM}; give millimetres")
    if (args.images is None) != (args.output is None):
        raise MASTProError("-i and -o go together: images to be predicted, and where their maps go")
    if args.fast and not args.maker:
        raise MASTProError("--fast is for --run totalsegmentator; leave it out where --masks gives the masks")
    if args.lacking_is_absent and args.masks is None:
        raise MASTProError("--lacking-is-absent is for --masks; leave it out")
    if args.plans is not None and args.images is not None:
        raise MASTProError("-p is for the preprocessed form of a data set; leave it out with -i and -o")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise MASTProError(f"-o {args.output} is a file; give a folder for the maps")
    processes = number_of_processes(args.num_processes)
    if args.model is not None and args.images is None:
        raise MASTProError("-m is for images to be predicted; give them with -i and -o")
    dataset_json, name, hosts = read_model(args.model) if args.model else read_dataset(args.dataset)
    ending = dataset_json["file_ending"]
    if args.images is not None:
        cases = predicted_cases(args.images, args.output, ending)
    else:
        cases = dataset_cases(nnunet_folder("nnUNet_raw") / name, dataset_json, ending)
    source = Source(args, hosts, dataset_json)
    for case in cases:
        read_geometry(case.images[0])
    source.check(cases)
    plans = args.plans or DEFAULT_PLANS
    manager, forms = training_forms(name, plans, cases) if args.images is None else (None, [])
    check_folders(cases, hosts, ending)
    records, made = write_maps(cases, source, args.dilate_mm, 1 if args.maker else processes)
    names = [case.name for case in cases]  # a training and a test case may have the same
    print("\n".join([*describe(names, records, hosts, foreground_labels(dataset_json)), *source.warnings]))
    if made < len(cases):
        print(f"{len(cases) - made} of {len(cases)} maps were there, made of the same files in the same way")
    folders = list(dict.fromkeys(case.target.parent for case in cases))
    print("\n".join(f"maps for -prev_stage_predictions: {folder}" for folder in folders if folder.name != "anatomyTr"))
    for line in write_preprocessed(manager, forms, hosts, cases, processes) if manager else ():
        print(line)
    if args.images is None and manager is None:
        print(f"no plans {plans} of {name} yet: run mastpro plan -d {name} --anatomy, then this command again")
    return 0


def check_folders(cases: Sequence[Case], hosts: Sequence[HostValue], ending: str) -> None:
    """Raise MASTProError where maps of other cases, made for other hosts, would stay beside the new ones."""
    targets = {case.target for case in cases}
    for folder in {target.parent for target in targets}:
        made = None if is_unfinished(folder) else hosts_of(folder)
        others = [path.name for path in files_of(folder, ending) if path not in targets]
        if others and made is not None and made != table_of(hosts):
            raise MASTProError(
                f"{folder} has maps of other cases for other host organs ({some(others)}); give -o another folder, "
                "or remove them"
            )


def training_forms(name: str, plans_name: str, cases: Sequence[Case]) -> tuple[PlansManager | None, list[Form]]:
    """Plans and the preprocessed folders that want maps; no plans where that file is not there yet.

    Raises MASTProError for plans without the anatomy stage, and for preprocessed cases that have no image.
    """
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    file = Path(nnUNet_preprocessed.get() or "", name, f"{plans_name}.json")
    if not nnUNet_preprocessed.get() or not file.is_file():
        found = plans_files(file.parent if nnUNet_preprocessed.get() else None)
        others = [path.stem for path, plans in found if anatomy_data(plans)]
        if others:
            meant = nearest(plans_name, others)
            raise MASTProError(
                f"{file} is not there; {meant}Give -p one of the plans with organ masks ({some(others)}), or write it "
                f"with mastpro plan -d {name} --anatomy -n {plans_name}"
            )
        return None, []
    try:
        manager = PlansManager(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise MASTProError(
            f"{file} is no JSON ({error}); write it anew with mastpro plan -d {name} --anatomy"
        ) from error
    configurations = [manager.get_configuration(entry) for entry in manager.available_configurations]
    wanted = {entry.data_identifier: entry for entry in configurations if entry.previous_stage_name == ANATOMY_STAGE}
    if not wanted:
        raise MASTProError(f"{file} asks for no organ masks; write plans with mastpro plan -d {name} --anatomy")
    forms = []
    for identifier, configuration in wanted.items():
        data = file.parent / identifier
        found = sorted(path.stem for path in data.glob("*.pkl"))
        strange = sorted({*found} - {case.name for case in cases})
        if strange:
            raise MASTProError(
                f"{data} holds {some(strange, 10)}, of which {name} has no training image; restore the image, or "
                "remove the preprocessed case"
            )
        images = {path.stem for ending in IMAGES for path in data.glob(f"*{ending}") if not path.stem.endswith("_seg")}
        half = sorted({*found} ^ images)
        if half:
            raise MASTProError(
                f"{data} has {some(half, 10)} in part, as where preprocessing was interrupted; preprocess again"
            )
        forms.append(Form(data, configuration, len(found)))
    return manager, forms


def write_preprocessed(
    manager: PlansManager, forms: Sequence[Form], hosts: Sequence[HostValue], cases: Sequence[Case], processes: int
) -> Iterator[str]:
    """The maps in the geometry of what has been preprocessed, by the plans' own reader; lines that tell of it."""
    targets = {case.name: case.target for case in reversed(cases)}
    for form in forms:
        if form.num_cases:
            folder = preprocessed.write_training_maps(form.data, manager, form.configuration, hosts, targets, processes)
            yield f"maps for training: {folder}"
    if not any(form.num_cases for form in forms):
        named = " and ".join(str(form.data) for form in forms)
        yield f"{named} is not preprocessed: preprocess it (nnUNetv2_preprocess), then run this command again"


def describe(
    names: Sequence[str], records: Sequence[MapRecord], hosts: Sequence[HostValue], labels: Sequence[str]
) -> list[str]:
    """What was found, as a table, and what to look at. `labels`: of the network's outputs, in order."""
    rows = [("value", "host of", "cases", "median ml", "structures")]
    for host in hosts:
        key = str(host.value)
        volumes = [record.volumes_ml[key] for record in records if key in record.volumes_ml]
        typical = f"{median(volumes):.1f}" if volumes else "-"
        hosted = ", ".join(labels[index] for index in host.classes)
        found = f"{len(volumes)} of {len(records)}"
        rows.append((str(host.value), hosted, found, typical, ", ".join(host.structures)))
    lines = table(rows)
    known = {value for record in records for value in record.volumes_ml}
    never = [host for host in hosts if str(host.value) not in known]
    if never and known:
        lines.append(f"warning: found in no case: {'; '.join(', '.join(host.structures) for host in never)}")
    empty = [name for name, record in zip(names, records, strict=True) if not record.volumes_ml]
    if empty:
        lines.append(
            f"warning: empty maps: {some(empty, 10)}; the network takes them as unknown, and with "
            "MASTPRO_SKIP_EMPTY=1 they become background"
        )
    claimed = [
        f"{name} ({record.claimed} voxels)" for name, record in zip(names, records, strict=True) if record.claimed
    ]
    if claimed:
        lines.append(f"warning: organs that overlap, where the smaller one has the voxels: {some(claimed, 10)}")
    return lines
