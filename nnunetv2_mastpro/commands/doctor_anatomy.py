"""The anatomy side of `mastpro doctor`: maps for training, maps of the test images, TotalSegmentator's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.anatomy.cases import dataset_cases
from nnunetv2_mastpro.anatomy.given import check_hosts, check_values, moved
from nnunetv2_mastpro.anatomy.preprocessed import check_training_maps, empty_training_maps, training_folder
from nnunetv2_mastpro.anatomy.source import is_mr_data
from nnunetv2_mastpro.anatomy.totalseg import tasks_of, weights_missing
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN, Finding
from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.datasets import read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.planning.anatomy import anatomy_data, host_table, plans_files
from nnunetv2_mastpro.prompts.resolve import resolve_prompts


def check_anatomy(raw: Path | None, preprocessed: Path | None) -> Iterator[Finding]:
    """Nothing for a data set whose plans ask for no organ masks. Folders of the data set, or None."""
    plans = {path: content for path, content in plans_files(preprocessed) if anatomy_data(content)}
    if not plans:
        return
    try:
        content = read_json_object(preprocessed / "dataset.json")
        hosts = host_table(content, resolve_prompts(content, preprocessed.name))
    except MASTProError as error:
        yield Finding(FAIL, str(error))
        return
    for path, found in plans.items():
        folders = [preprocessed / identifier for identifier in anatomy_data(found)]
        ready = [folder for folder in folders if any(folder.glob("*.pkl"))]
        for folder in ready or folders[:1]:  # nobody trains every configuration
            finding = check_training(path, folder, hosts)
            yield finding
            if finding.status != OK:
                continue
            yield from empty_maps(f"{path.name}: {folder.name}", empty_training_maps(training_folder(folder)))
    if raw is not None:
        yield from check_maps(raw, content, hosts)
    yield check_totalsegmentator(content, hosts)


def check_training(plans: Path, data: Path, hosts: tuple[HostValue, ...]) -> Finding:
    """As the trainer does before a training."""
    cases = sorted(path.stem for path in data.glob("*.pkl"))
    if not cases:
        from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

        number = convert_dataset_name_to_id(plans.parent.name)  # the command takes no names
        remedy = f"nnUNetv2_preprocess -d {number} -plans_name {plans.stem}, then mastpro anatomy"
        return Finding(WARN, f"{plans.name}: {data.name} is not preprocessed yet", remedy)
    try:
        check_training_maps(training_folder(data), data, cases, hosts, plans.stem)
    except MASTProError as error:
        return Finding(FAIL, f"{plans.name}: {error}", f"trainings without -p {plans.stem} do not need it")
    return Finding(OK, f"{plans.name}: host-organ maps for all {len(cases)} cases of {data.name}")


def check_maps(raw: Path, content: dict, hosts: tuple[HostValue, ...]) -> Iterator[Finding]:
    """Of training and test images."""
    from nnunetv2_mastpro.anatomy.writing import known_records

    try:
        cases = dataset_cases(raw, content, content["file_ending"])
    except (MASTProError, OSError, KeyError, AssertionError):
        return  # nnU-Net's own check of the data set tells it better
    folders: dict[Path, dict[Path, Path]] = {}
    for case in cases:
        folders.setdefault(case.target.parent, {})[case.target] = case.images[0]
    for folder, pairs in folders.items():
        yield check_folder(folder, pairs, hosts)
        records = known_records(folder)
        yield from empty_maps(
            str(folder), [path.name for path in pairs if path.name in records and not records[path.name].volumes_ml]
        )


def empty_maps(where: str, names: Sequence[str]) -> Iterator[Finding]:
    """Cases of which no host organ is known: masks may have been forgotten."""
    if names:
        remedy = "if masks were forgotten, run mastpro anatomy with them; else these cases have no organ masks"
        yield Finding(WARN, f"{where}: empty maps, as of cases without masks: {some(names)}", remedy)


def check_folder(folder: Path, pairs: Mapping[Path, Path], hosts: tuple[HostValue, ...]) -> Finding:
    """Each map (map -> image) is there, on its image's grid; the folder and its first maps are of these hosts."""
    remedy = "run mastpro anatomy again"
    missing = [target.name for target in pairs if not target.is_file()]
    if missing:
        return Finding(WARN, f"{folder}: no map for {some(missing)}", "run mastpro anatomy with their masks")
    try:
        check_hosts(folder, hosts, remedy)
        elsewhere = [target.name for target in moved(pairs)]
        check_values(pairs, hosts, remedy)
    except MASTProError as error:
        return Finding(FAIL, str(error))
    if elsewhere:
        return Finding(FAIL, f"{folder}: maps on another grid than their image: {some(elsewhere)}", remedy)
    return Finding(OK, f"{folder}: maps for all {len(pairs)} images, on their grids")


def check_totalsegmentator(dataset_json: dict, hosts: tuple[HostValue, ...]) -> Finding:
    """Its weights are needed for --run only."""
    structures = (structure for host in hosts for structure in host.structures)
    tasks = tasks_of(structures, not is_mr_data(dataset_json))
    try:
        missing, missing_fast = (weights_missing(tasks, fast) for fast in (False, True))
    except MASTProError as error:
        return Finding(WARN, str(error))
    if missing and not missing_fast:
        return Finding(
            OK, f"TotalSegmentator's weights for {', '.join(tasks)}, as mastpro anatomy --run needs with --fast"
        )
    if missing:
        remedy = "mastpro anatomy --run needs them (totalseg_download_weights -t TASK), --masks does not"
        return Finding(WARN, f"TotalSegmentator's weights are not there for {', '.join(missing)}", remedy)
    return Finding(OK, f"TotalSegmentator's weights for {', '.join(tasks)}")
