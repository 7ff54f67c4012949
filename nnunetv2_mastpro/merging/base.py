"""The trained model to which `mastpro add-tumour` shall add what is merged (--model)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import find_new_labels, with_prompts
from nnunetv2_mastpro.prompts.edit import read_dataset_json
from nnunetv2_mastpro.prompts.resolve import foreground_labels, resolve_prompts


@dataclass(frozen=True)
class Base:
    """`content`: its dataset.json, `classes`: with their prompts."""

    folder: Path
    content: dict
    classes: tuple[ClassSpec, ...]

    @property
    def values(self) -> dict[str, int]:
        """Class -> value, in nnU-Net's order."""
        return {name: self.content["labels"][name] for name in foreground_labels(self.content)}

    def adopt(self, content: dict) -> dict:
        """The merged dataset.json with the model's prompts. Raises MASTProError for what add-tumour would refuse."""
        new = find_new_labels(self.content, content, f"what is merged for --model {self.folder}")
        changed = with_prompts(content, self.classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # add-tumour tells what has a name only
            prompts = resolve_prompts(changed, content["name"])
        others = [prompt.label for prompt in prompts if prompt.label in new and not prompt.is_tumor]
        if others:
            raise MASTProError(
                f'the class "{others[0]}" is no tumour type, and mastpro add-tumour adds nothing else to --model '
                f"{self.folder}; drop it in the map ({others[0]}: null), or, if it is one, write "
                '"is_tumor": true into its entry of mastpro.prompts in the source\'s dataset.json'
            )
        return changed


def read_base(folder: Path) -> Base:
    """Raises MASTProError for a folder without a MAST-Pro model, and for one whose classes are regions."""
    missing = [name for name in ("dataset.json", "plans.json") if not (folder / name).is_file()]
    if missing:
        raise MASTProError(
            f"--model {folder} has no {missing[0]}; give the folder TRAINER__PLANS__CONFIGURATION of a trained model"
        )
    content = read_dataset_json(folder / "dataset.json")
    regions = [name for name in foreground_labels(content) if not isinstance(content["labels"][name], int)]
    if regions:
        raise MASTProError(f'the class "{regions[0]}" of --model {folder} is a region, to which no type can be added')
    resolved = MASTProConfig.from_dict(read_dataset_json(folder / "plans.json").get("mastpro", {})).resolved
    if resolved is None:
        raise MASTProError(f"--model {folder} holds no MAST-Pro model; train one with -tr nnUNetTrainerMASTPro")
    return Base(folder, content, resolved.classes)
