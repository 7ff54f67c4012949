"""Named overlays, plans/*.json, deep-merged over the plans that nnU-Net made. Data only, no code."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import closest
from nnunetv2_mastpro.planning import DEFAULT_PLANS
from nnunetv2_mastpro.planning.anatomy import add_anatomy_stage
from nnunetv2_mastpro.resources import plans_dir

NOTE_KEY = "description"  # of an overlay, for its readers
OWN_KEY = "mastpro"  # our block, which nnU-Net's plans do not have
READER_KEY = "image_reader_writer"  # nnU-Net's SimpleITKIOWithReorient turns every case to one orientation
RESAMPLING_KEYS = (
    "spacing",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
)


def known_overlays() -> list[str]:
    """Names that load_overlay takes."""
    return sorted(path.stem for path in plans_dir().glob("*.json"))


def load_overlay(name: str) -> dict:
    """The overlay of this name. Raises MASTProError naming the known ones."""
    if name not in known_overlays():
        raise MASTProError(f"no plans overlay is called {name!r}; known: {', '.join(known_overlays())}")
    return json.loads((plans_dir() / f"{name}.json").read_text(encoding="utf-8"))


def apply_overlay(plans: dict, overlay: dict) -> dict:
    """New plans: objects are merged, all else is replaced, as are the arguments of functions and of another network.

    A configuration whose reader, spacing, resampling or normalisation changed gets a data_identifier of its own, since
    its preprocessed data differ; plans written anew with others of these never find the old data. Raises MASTProError
    for a key that nnU-Net's plans lack and for a patch or stage lists that the network refuses.
    """
    overlay = {key: value for key, value in overlay.items() if key != NOTE_KEY}
    own = overlay.pop(OWN_KEY, None)
    merged = _merge(plans, overlay, "plans")
    if own is not None:
        from nnunetv2_mastpro.config import MASTProConfig

        before = merged.get(OWN_KEY, {})
        for block in (own, before):
            MASTProConfig.from_dict(block)
        changed = {key: {**before.get(key, {}), **copy.deepcopy(values)} for key, values in own.items()}
        merged[OWN_KEY] = {**before, **changed}
    read_anew = merged.get(READER_KEY) != plans.get(READER_KEY)
    for name, configuration in merged["configurations"].items():
        before = plans["configurations"][name]
        resampled = any(configuration.get(key) != before.get(key) for key in RESAMPLING_KEYS)
        if resampled or (read_anew and "data_identifier" in configuration):
            said = [merged.get(READER_KEY), *(configuration.get(key) for key in RESAMPLING_KEYS)]
            digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
            configuration["data_identifier"] = f"{merged['plans_name']}_{name}_{digest[:8]}"
    for name in overlay.get("configurations", {}):
        _follow_spacing(merged["configurations"][name], plans["configurations"][name])
        _check_network(merged["configurations"][name], name)
    return merged


def write_plans(
    preprocessed_folder: str | Path,
    source_plans_name: str = "nnUNetPlans",
    overlay_name: str | None = None,
    new_plans_name: str = DEFAULT_PLANS,
    *,
    anatomy: bool = False,
    overwrite: bool = False,
) -> Path:
    """`<new_plans_name>.json` beside the source plans of a data set; whole or not at all. Gives its path.

    Always with a whole "mastpro" block, so that there is something to edit. overlay_name: of plans/*.json.
    anatomy: organ masks become the previous stage. overwrite: also where other plans have the name.
    Raises MASTProError where the source is missing or would be overwritten, and as apply_overlay does.
    """
    folder = Path(preprocessed_folder)
    source, target = folder / f"{source_plans_name}.json", folder / f"{new_plans_name}.json"
    if not source.is_file():
        raise MASTProError(f"{source} does not exist; run nnUNetv2_plan_and_preprocess, or name plans that are there")
    if new_plans_name == source_plans_name:
        raise MASTProError(f"the new plans are called {new_plans_name} as their source is; give another name")
    check_plans_name(new_plans_name)
    plans = {**_read_plans(source), "plans_name": new_plans_name}
    if overlay_name is not None:
        plans = apply_overlay(plans, load_overlay(overlay_name))
    if anatomy:
        plans = add_anatomy_stage(plans)
    plans[OWN_KEY] = _whole_block(plans.get(OWN_KEY, {}))
    if target.exists() and _read_plans(target) != plans and not overwrite:
        raise MASTProError(
            f"{target} is there and differs, and trainings may depend on it; give another name, or overwrite it "
            "(mastpro plan --overwrite)"
        )
    write_atomically({target: (json.dumps(plans, indent=4) + "\n").encode()})
    return target


def check_plans_name(name: str) -> None:
    """Raise MASTProError for a name that nnU-Net cannot use."""
    if not re.fullmatch(r"[\w.+-]+", name) or "__" in name:  # nnU-Net splits results folders at __
        raise MASTProError(f"{name!r} cannot be the plans' name; use letters, digits, . + - and single _")


def _read_plans(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MASTProError(f"{path} cannot be read as JSON ({error}); plan again, or remove it") from error
    if not isinstance(content, dict) or not isinstance(content.get("configurations"), dict):
        raise MASTProError(f"{path} does not hold nnU-Net plans; give the name of plans, such as nnUNetPlans")
    return content


def _whole_block(block: dict) -> dict:
    """With every default, and without what the training of other plans has resolved."""
    from nnunetv2_mastpro.config import MASTProConfig

    if isinstance(block, dict):
        block = {key: value for key, value in block.items() if key != "resolved"}
    whole = MASTProConfig.from_dict(block).to_dict()
    return {key: value for key, value in whole.items() if key != "resolved"}


def _merge(base: dict, over: dict, where: str) -> dict:
    merged = copy.deepcopy(base)
    for key, value in over.items():
        if key not in base:
            hint = f"; did you mean {closest(key, [*base], 0)!r}?" if base else ""
            raise MASTProError(f"the overlay sets {where}.{key}, which nnU-Net's plans do not have{hint}")
        if isinstance(value, dict) and isinstance(base[key], dict) and not _is_replaced(key, base[key], value):
            merged[key] = _merge(base[key], value, f"{where}.{key}")
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _is_replaced(key: str, base: dict, over: dict) -> bool:
    """Arguments of another network class, and of functions: the overlay's are the whole of them."""
    if key == "architecture":
        return over.get("network_class_name", base.get("network_class_name")) != base.get("network_class_name")
    return key.endswith("_kwargs") and key != "arch_kwargs"


def _follow_spacing(configuration: dict, before: dict) -> None:
    old, new = before.get("spacing"), configuration.get("spacing")
    if old != new and "median_image_size_in_voxels" in configuration:
        sizes = before["median_image_size_in_voxels"]
        configuration["median_image_size_in_voxels"] = [
            size * a / b for size, a, b in zip(sizes, old, new, strict=True)
        ]


def _check_network(configuration: dict, name: str) -> None:
    """Stage lists agree with n_stages, the patch with the network."""
    from nnunetv2_mastpro.network.planned import refuse

    kwargs = configuration.get("architecture", {}).get("arch_kwargs", {})
    stages = kwargs.get("n_stages")
    for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if isinstance(kwargs.get(key), list) and len(kwargs[key]) != stages:
            raise MASTProError(
                f"{key} of configuration {name} has {len(kwargs[key])} entries for n_stages={stages}; "
                "give one for each stage"
            )
    reason = refuse(configuration) if "patch_size" in configuration else None
    if reason:
        raise MASTProError(f"{reason} (configuration {name})")
