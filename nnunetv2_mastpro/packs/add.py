"""From a trained model and a data set with new types: plans, the grown weights, and the commands that train them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nnunetv2_mastpro.anatomy.preprocessed import check_training_maps, training_folder
from nnunetv2_mastpro.config import MASTProConfig, Resolved
from nnunetv2_mastpro.datasets import is_trained, read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import nearest, some
from nnunetv2_mastpro.network.parts import WITH_ADDED
from nnunetv2_mastpro.packs.labels import check_prompts, find_new_labels, with_prompts
from nnunetv2_mastpro.packs.model import Model
from nnunetv2_mastpro.packs.plans import make_plans, training_images
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE, inherited
from nnunetv2_mastpro.planning.overlay import check_plans_name
from nnunetv2_mastpro.processes import environment, find_executable, shell_line
from nnunetv2_mastpro.prompts.encoder import embed
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.resources import ext_trainers
from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.weights.convert import build_network

START = "checkpoint_start.pth"


@dataclass(frozen=True)
class Addition:
    """What is settled before anything is written. `plans` of the new training; `resolved`: what it makes of them."""

    model: Model
    dataset: Path  # in nnUNet_raw
    preprocessed: Path
    fold_folder: Path
    configuration: str
    fold: str
    trainer: str
    device: str
    workers: int | None
    plans: dict
    resolved: Resolved
    new: tuple[str, ...]
    dataset_jsons: dict[Path, dict]  # copies of dataset.json that are to be written
    embeddings: torch.Tensor  # (T, D), of all classes

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / f"{self.plans['plans_name']}.json"

    @property
    def data(self) -> Path:
        """The folder of preprocessed cases."""
        return self.preprocessed / inherited(self.plans["configurations"], self.configuration, "data_identifier")


def prepare(model: Model, args: Namespace, dataset: Path, preprocessed: Path, results: Path) -> Addition:
    """Everything that can be checked beforehand. `dataset`: its folder in nnUNet_raw. Raises MASTProError."""
    configuration = model.checkpoint["init_args"]["configuration"]
    if args.configuration not in (None, configuration):
        raise MASTProError(f"-c {args.configuration} is not the model's; its weights are of {configuration}")
    check_trainer(args.trainer)
    if args.learning_rate is not None and not 0 < args.learning_rate <= 1:
        raise MASTProError(f"--learning-rate {args.learning_rate} is not within 0 and 1; give one such as 1e-2")
    check_plans_name(args.name)
    copies = [path for path in (dataset / "dataset.json", preprocessed / "dataset.json") if path.is_file()]
    if dataset / "dataset.json" not in copies:
        raise MASTProError(f"{dataset} has no dataset.json; give -d a data set that is in nnUNet_raw")
    contents = {path: read_json_object(path) for path in copies}
    changed = {path: with_prompts(content, model.classes) for path, content in contents.items() if args.write_prompts}
    contents.update(changed)
    for path, dataset_json in contents.items():  # the last is the one that training reads
        new = find_new_labels(model.dataset_json, dataset_json, str(path))
        prompts = resolve_prompts(dataset_json, dataset.name)
        check_prompts(model, prompts, str(path))
    if len(copies) == 1:
        changed[preprocessed / "dataset.json"] = dataset_json
    plans = make_plans(model, dataset, args.name, new, args.learning_rate)
    plans_file = preprocessed / f"{args.name}.json"
    if plans_file.exists() and read_json_object(plans_file) != plans:
        raise MASTProError(
            f"{plans_file} is there and differs, and trainings may depend on it; give the options as "
            "before, or -n another name"
        )
    config, _ = resolve(plans, dataset_json)
    vectors = embed([prompt.sentence for prompt in prompts], config.prompts.encoder).vectors
    known = model.weights["embeddings"]
    if known.shape[1:] != vectors.shape[1:] or not torch.allclose(known, vectors[: len(known)], atol=1e-3):
        raise MASTProError(
            f"the text encoder {config.prompts.encoder} gives other embeddings than when {model.file} was trained; "
            "restore the encoder"
        )
    run = f"{args.trainer}__{args.name}__{configuration}"
    return Addition(
        model=model,
        dataset=dataset,
        preprocessed=preprocessed,
        fold_folder=results / dataset.name / run / f"fold_{args.fold}",
        configuration=configuration,
        fold=args.fold,
        trainer=args.trainer,
        device=args.device,
        workers=args.workers,
        plans=plans,
        resolved=config.resolved,
        new=tuple(new),
        dataset_jsons=changed,
        embeddings=torch.cat([known, vectors[len(known) :]]),
    )


def check_trainer(name: str) -> None:
    """Raise MASTProError unless the plugin has the trainer, and it is none that trains everything."""
    from nnunetv2_mastpro.training import trainer

    known = [
        found for found, kind in vars(trainer).items() if found.startswith("nnUNetTrainerMASTPro") and kind.mode is None
    ]
    if name not in known:
        raise MASTProError(f"--trainer {name!r} is unknown; {nearest(name, known)}Known: {', '.join(known)}")


def write_start(addition: Addition) -> Path:
    """The grown weights as -pretrained_weights takes them: the model's, and the new types' before training."""
    file = addition.fold_folder / START
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{START}.tmp")
    config = dataclasses.replace(MASTProConfig.from_dict(addition.plans["mastpro"]), resolved=addition.resolved)
    plans = {**addition.plans, "mastpro": config.to_dict()}
    dataset_json = read_json_object(addition.preprocessed / "dataset.json")
    fresh = build_network(plans, addition.configuration, dataset_json).state_dict()
    known = addition.model.weights
    said = torch.tensor(int(known["trained"]) | WITH_ADDED)
    weights = {**fresh, **known, "embeddings": addition.embeddings, "trained": said}  # what is new comes last
    init_args = {"plans": plans, "configuration": addition.configuration}
    torch.save({"network_weights": weights, "init_args": init_args}, staged)
    os.replace(staged, file)
    return file


def commands(addition: Addition) -> list[tuple[str, ...]]:
    """nnU-Net's commands that are still to be run, the training last."""
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    dataset = str(convert_dataset_name_to_id(addition.dataset.name))
    workers = () if addition.workers is None else ("-np", str(addition.workers))
    todo: list[tuple[str, ...]] = []
    if not (addition.preprocessed / "dataset_fingerprint.json").is_file():
        todo.append(("nnUNetv2_extract_fingerprint", "-d", dataset, "--verify_dataset_integrity", *workers))
    if not is_preprocessed(addition.data, training_images(addition.dataset)):
        names = ("-plans_name", addition.plans["plans_name"], "-c", addition.configuration)
        todo.append(("nnUNetv2_preprocess", "-d", dataset, *names, *workers))
    what = (dataset, addition.configuration, addition.fold, "-p", addition.plans["plans_name"], "-tr", addition.trainer)
    how = ("--c",) if is_trained(addition.fold_folder) else ("-pretrained_weights", str(addition.fold_folder / START))
    return [*todo, ("nnUNetv2_train", *what, "-device", addition.device, *how)]


def is_preprocessed(data: Path, images: Mapping[str, Mapping]) -> bool:
    """Whether the folder holds the cases, each from after its label was last written."""
    made = {path.stem: path.stat().st_mtime for path in data.glob("*.pkl")}
    return made.keys() == images.keys() and all(
        made[case] >= files["label"].stat().st_mtime for case, files in images.items()
    )


def check_unchanged(addition: Addition) -> None:
    """Raise MASTProError where the data set was merged anew since the training began, finished or not."""
    fold = addition.fold_folder
    if not is_trained(fold) or not (fold / START).is_file():
        return
    images, begun = training_images(addition.dataset), (fold / START).stat().st_mtime
    newer = sorted(case for case, files in images.items() if files["label"].stat().st_mtime > begun)
    if newer:
        raise MASTProError(
            f"{fold} was trained before labels of {addition.dataset.name} were written ({some(newer)}); give -n "
            "another name for a new training, or move that folder away"
        )


def is_finished(addition: Addition) -> bool:
    """Whether nnU-Net has trained and validated."""
    done = (addition.fold_folder / "checkpoint_final.pth", addition.fold_folder / "validation" / "summary.json")
    return all(path.is_file() for path in done)


def carry_out(addition: Addition, say: Callable[[str], None]) -> None:
    """Writes plans and start, and runs the commands; each is printed. Raises MASTProError where one fails."""
    addition.preprocessed.mkdir(parents=True, exist_ok=True)
    contents = {**addition.dataset_jsons, addition.plans_file: addition.plans}
    texts = {path: json.dumps(content, indent=4, ensure_ascii=False) for path, content in contents.items()}
    write_atomically({path: f"{text}\n".encode() for path, text in texts.items()})
    say("\n".join(f"wrote {path}" for path in contents))
    *before, training = commands(addition)
    for command in before:
        run(command, say)
    check_maps(addition)
    if "--c" not in training:
        say(f"wrote {write_start(addition)}")
    run(training, say)


def check_maps(addition: Addition) -> None:
    """Raise MASTProError where the model takes organ masks and the data set has none; mastpro anatomy makes them."""
    if takes_maps(addition):
        cases, plans = sorted(path.stem for path in addition.data.glob("*.pkl")), addition.plans["plans_name"]
        try:
            check_training_maps(training_folder(addition.data), addition.data, cases, addition.resolved.hosts, plans)
        except MASTProError as error:
            raise MASTProError(f"{error}, then this command again") from error


def takes_maps(addition: Addition) -> bool:
    """Whether the model has organ masks as a prior."""
    return inherited(addition.plans["configurations"], addition.configuration, "previous_stage") == ANATOMY_STAGE


def maps_command(addition: Addition) -> tuple[str, ...]:
    """What the user runs between preprocessing and training, where the model takes maps."""
    if not takes_maps(addition):
        return ()
    return ("mastpro", "anatomy", "-d", addition.dataset.name, "-p", addition.plans["plans_name"], "--masks", "MASKS")


def run(command: tuple[str, ...], say: Callable[[str], None]) -> None:
    """A command of nnU-Net in this environment, its output where ours goes."""
    say(f"\n$ {shell_line(command)}")
    environ = environment({"nnUNet_extTrainer": ext_trainers()})
    done = subprocess.run([find_executable(command[0]), *command[1:]], env=environ, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise MASTProError(
            f"{command[0]} ended with status {done.returncode}; repair what it names above and run the same command "
            "again: it goes on where it was"
        )
