"""What prediction leaves out: tumour types that nobody asks for, patches without any host organ.

Environment, read when the network is built, over mastpro.prediction of the plans:
MASTPRO_TASKS       tumour types to look for, by label, separated by commas
MASTPRO_SKIP_EMPTY  1: the network is not run on patches without any class's host organ; 0: it is
"""

import dataclasses
import os

from nnunetv2_mastpro.config import MASTProConfig, PredictionConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import nearest
from nnunetv2_mastpro.network.mastpro import MASTProNet


def read_settings(config: MASTProConfig) -> PredictionConfig:
    """The plans' settings under the environment's. Raises MASTProError for values that cannot be followed."""
    settings = config.prediction
    tasks, skip = os.environ.get("MASTPRO_TASKS", "").strip(), os.environ.get("MASTPRO_SKIP_EMPTY", "").strip()
    if tasks:
        settings = dataclasses.replace(settings, tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()))
    if skip:
        if skip not in ("0", "1"):
            raise MASTProError(f"MASTPRO_SKIP_EMPTY={skip!r} is neither 0 nor 1; correct or unset it")
        settings = dataclasses.replace(settings, skip_empty=skip == "1")
    if settings.tasks is not None and config.network.fixed_head:
        raise MASTProError(
            "MASTPRO_TASKS (or mastpro.prediction.tasks) names types to look for, but the model was trained without "
            "text and anatomy, and its fixed head always looks for all; unset it, and drop labels afterwards"
        )
    if settings.tasks is not None:
        _check_tasks(settings.tasks, config)
    if settings.skip_empty:
        _check_skipping(settings, config)
    return settings


def limit(network: MASTProNet, settings: PredictionConfig, config: MASTProConfig) -> list[str]:
    """Make the network leave out what the settings say; gives lines for the log. Raises MASTProError."""
    if settings.skip_empty and network.anatomy is None:
        raise MASTProError(
            "MASTPRO_SKIP_EMPTY asks to skip patches without host organs, but this configuration takes no organ masks; "
            "unset it"
        )
    left_out = _left_out(settings, config)
    network.left_out, network.skip_empty = left_out, settings.skip_empty
    lines = []
    if left_out:
        names = ", ".join(config.resolved.classes[index].label for index in left_out)
        lines.append(f"MAST-Pro looks for {', '.join(settings.tasks)} (MASTPRO_TASKS or plans); left out: {names}")
    if settings.skip_empty:
        lines.append("MAST-Pro skips patches without any host organ: a case whose map is empty becomes background")
    return lines


def _left_out(settings: PredictionConfig, config: MASTProConfig) -> list[int]:
    classes = enumerate(config.resolved.classes)
    wanted = settings.tasks
    return [] if wanted is None else [i for i, entry in classes if entry.is_tumor and entry.label not in wanted]


def _check_tasks(tasks: tuple[str, ...], config: MASTProConfig) -> None:
    known = [entry.label for entry in config.resolved.classes if entry.is_tumor]
    if not known:
        raise MASTProError("MASTPRO_TASKS is set, but the model has no tumour type; unset it")
    for name in tasks:
        if name not in known:
            hint = nearest(str(name), [other for other in known if other not in tasks])
            raise MASTProError(
                f"MASTPRO_TASKS names {name!r}, which is no tumour type of the model; {hint}Known: {', '.join(known)}"
            )
    if not tasks:
        raise MASTProError(f"mastpro.prediction.tasks is empty; name some of {', '.join(known)}, or remove it")


def _check_skipping(settings: PredictionConfig, config: MASTProConfig) -> None:
    if not config.resolved.hosts:
        raise MASTProError(
            "MASTPRO_SKIP_EMPTY asks to skip patches without host organs, but the model was trained without anatomy; "
            "unset it"
        )
    hosted = {index for host in config.resolved.hosts for index in host.classes} | {*_left_out(settings, config)}
    hostless = [entry.label for index, entry in enumerate(config.resolved.classes) if index not in hosted]
    if hostless:
        raise MASTProError(
            f"MASTPRO_SKIP_EMPTY asks to skip patches without host organs, but {', '.join(hostless)} can be anywhere "
            "(no host structure); unset it, or narrow MASTPRO_TASKS to types with hosts"
        )
