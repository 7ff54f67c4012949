"""The trained model to which `mastpro add-tumour` shall add what is merged (--model)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.datasets import read_trained
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import check_unablated, find_new_labels, with_prompts
from nnunetv2_mastpro.prompts.resolve import foreground_labels, resolve_quietly


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

    def check(self, content: dict, targets: Mapping[str, Mapping[str, str | None]]) -> None:
        """Raise MASTProError for channels and classes of the merged dataset.json that mastpro add-tumour would refuse.

        `targets`: source -> label -> class or None.
        """
        if "regions_class_order" in content:
            raise MASTProError(
                f"nest in the map makes regions, and --model {self.folder} has none; leave nest out of the map"
            )
        new = find_new_labels(self.content, content, f"what is merged for --model {self.folder}")
        for prompt in resolve_quietly(with_prompts(content, self.classes), content["name"]):
            if prompt.label in new and not prompt.is_tumor:
                raise MASTProError(
                    f'the class "{prompt.label}" ({_origin(prompt.label, targets)}) is no tumour type, and mastpro '
                    f"add-tumour adds nothing else to --model {self.folder}; make that label null in the map, or, if "
                    'it is one, give it a "sentence" and "is_tumor": true in mastpro.prompts of its dataset.json'
                )


def _origin(name: str, targets: Mapping[str, Mapping[str, str | None]]) -> str:
    return next(
        f"{label} of {source}"
        for source, labels in targets.items()
        for label, target in labels.items()
        if target == name
    )


def read_base(folder: Path) -> Base:
    """Raises MASTProError for a folder without a whole MAST-Pro model, and for one whose classes are regions."""
    plans, content = read_trained(folder)
    regions = [name for name in foreground_labels(content) if not isinstance(content["labels"][name], int)]
    if regions:
        raise MASTProError(f'the class "{regions[0]}" of --model {folder} is a region, to which no type can be added')
    config = MASTProConfig.from_dict(plans.get("mastpro", {}))
    check_unablated(config, folder)
    return Base(folder, content, config.resolved.classes)
