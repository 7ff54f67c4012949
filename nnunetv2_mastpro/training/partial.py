"""Partial labels in nnU-Net's trainer: loss, draws of cases, pseudo-Dice and final validation know who annotated what.

B batch, T classes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.partial import labels_of, outputs_of, rewrite_summary
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.tasks import Cases, nesting, read_cases
from nnunetv2_mastpro.training.partial_loss import PartialLabelLoss
from nnunetv2_mastpro.training.ranks import check_batch, gathered
from nnunetv2_mastpro.training.recipe import EPOCH_ITERATIONS, ShortRuns
from nnunetv2_mastpro.training.sampling import HostRegion, SampledCases, draw_shares, histogram, repeated, tumors_of


class PartialLabels(ShortRuns):
    """nnU-Net's trainer for cases that each annotate some of the classes, by `mastpro.cases` of dataset.json.

    Cases are drawn by mastpro.training.sampling_temperature of the plans; a share of the patches, its foreground_share,
    is centred on tumours.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        self.draws = MASTProConfig.from_dict(plans.get("mastpro", {})).training
        self.classes = self.find_classes(plans, dataset_json)
        self.cases: Cases = read_cases(dataset_json, [entry.label for entry in self.classes])
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.drawn = Counter()
        self.oversample_foreground_percent = self.draws.foreground_share

    def find_classes(self, plans: dict, dataset_json: dict) -> Sequence:
        """The outputs of the network but background, with label, is_tumor and host_structures."""
        return resolve_prompts(dataset_json, plans["dataset_name"])

    @property
    def announces(self) -> bool:
        """Whether the loss asks what each sample annotates."""
        return self.cases.partial

    def announce(self, cases: Sequence[str]) -> None:
        """Tell the loss what the samples of the next batch annotate: `annotated` (B, T)."""
        if self.announces:
            annotated = torch.tensor([self.cases.annotated_in(case) for case in cases], device=self.device)
            for listener in self.listeners():
                listener.annotated = annotated

    def listeners(self) -> list[nn.Module]:
        """What takes `annotated`."""
        return [module for module in self.loss.modules() if isinstance(module, PartialLabelLoss)]

    def _build_loss(self) -> nn.Module:
        stock = super()._build_loss()
        if not self.cases.partial:
            if self.is_ddp and self.configuration_manager.batch_dice:
                check_batch(self.configuration_manager.batch_size, dist.get_world_size())
            return stock
        loss = PartialLabelLoss(
            nested=self.nested,
            has_regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            batch_dice=self.configuration_manager.batch_dice,
            ddp=self.is_ddp,
        )
        return DeepSupervisionWrapper(loss, stock.weight_factors) if self.enable_deep_supervision else loss

    @cached_property
    def nested(self) -> list[list[bool]]:
        """[u][a]: tumour type u lies inside class a."""
        return nesting(self.classes)

    @cached_property
    def tumors(self) -> dict[str, object]:
        """Tumour type -> nnU-Net's label or region; all classes where none is a tumour type."""
        named = list(zip(self.classes, outputs_of(self.label_manager), strict=True))
        return {entry.label: label for entry, label in named if entry.is_tumor} or {e.label: v for e, v in named}

    def get_tr_and_val_datasets(self):
        """As nnU-Net's; training draws the cases by the temperature and centres patches on tumours."""
        self.check_cases()
        training, validation = super().get_tr_and_val_datasets()
        cases = list(training.identifiers)
        folder = Path(self.preprocessed_dataset_folder)
        self.types = {case: tumors_of(load_pickle(str(folder / f"{case}.pkl")), self.tumors) for case in cases}
        self.sources = {case: self.cases.source_of(case) for case in cases}
        shares = draw_shares(self.types, self.sources, self.draws.sampling_temperature)
        if self.region is not None:  # its patches are drawn as those of training
            validation = SampledCases(validation, list(validation.identifiers), self.tumors.values(), self.region)
        return SampledCases(training, repeated(shares), self.tumors.values(), self.region), validation

    @property
    def region(self) -> HostRegion | None:
        """Where patches without a tumour are centred; None: anywhere."""
        return None

    def check_cases(self) -> None:
        """Raise MASTProError where dataset.json names a case that is not there: misspelt, it would count as whole."""
        there = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
        missing = self.cases.not_among(there)
        if missing:
            raise MASTProError(
                f"mastpro.cases in dataset.json names {some(missing)}, which {self.preprocessed_dataset_folder} does "
                "not hold; correct the names, or preprocess again where they come from a later merge"
            )

    def on_train_start(self) -> None:
        super().on_train_start()
        for line in (describe_length(self), *describe_cases(self.cases, [*self.types])):
            self.print_to_log_file(line)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.train()
        self.drawn.clear()

    def train_step(self, batch: dict) -> dict:
        self.drawn.update(str(case) for case in batch["keys"])
        self.announce(batch["keys"])
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        drawn = sum(gathered(self.drawn), Counter())
        if self.local_rank == 0:
            self.print_to_log_file(histogram(drawn, self.types, self.sources))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.loss.eval()

    def validation_step(self, batch: dict) -> dict:
        """As nnU-Net's, sample by sample, without the classes that a sample does not annotate."""
        if not self.cases.partial:
            self.announce(batch["keys"])
            return super().validation_step(batch)
        outputs = [self._validate_sample(batch, place) for place in range(len(batch["keys"]))]
        counts = {key: np.sum([output[key] for output in outputs], 0) for key in ("tp_hard", "fp_hard", "fn_hard")}
        return {"loss": np.mean([output["loss"] for output in outputs]), **counts}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As nnU-Net's. Where no sample told of any class, the moving average of the Dice, by which the best checkpoint
        is known, stays as it was, or begins at 0; it would be NaN from then on.
        """
        super().on_validation_epoch_end(val_outputs)
        if self._best_ema is not None and np.isnan(self._best_ema):  # of a run before this was so
            self._best_ema = None
        averages = self.logger.get_value("ema_fg_dice", step=None)
        if np.isnan(averages[-1]):
            known = [value for value in averages if not np.isnan(value)]
            averages[-1] = known[-1] if known else 0.0  # the logger's own list

    def _validate_sample(self, batch: dict, place: int) -> dict:
        def pick(tensor: Tensor) -> Tensor:
            return tensor[place : place + 1]

        case, target = batch["keys"][place], batch["target"]
        target = [pick(stage) for stage in target] if isinstance(target, list) else pick(target)
        self.announce([case])
        seen = []
        hook = self.network.register_forward_hook(lambda *called: seen.append(called[-1]))
        try:
            output = super().validation_step({"data": pick(batch["data"]), "target": target, "keys": [case]})
        finally:
            hook.remove()
        known = np.array(self.cases.annotated_in(case))
        as_organ = self._found_as_organ(seen[0], target, known)
        output["tp_hard"], output["fn_hard"] = output["tp_hard"] + as_organ, output["fn_hard"] - as_organ
        return {key: value if key == "loss" else value * known for key, value in output.items()}

    def _found_as_organ(self, output, target: Tensor | list[Tensor], known: np.ndarray) -> np.ndarray:
        """(T,) voxels of an organ's label where one of its tumours is predicted that the sample does not annotate.

        The loss takes them for the organ, since its label may hold tumours. A region counts them itself.
        """
        unknown = np.array(self.nested) & ~known[:, None]  # [u][a]
        found = np.zeros(len(known))
        if self.label_manager.has_regions or not unknown.any():
            return found
        while not isinstance(output, Tensor):
            output = output[0]  # full resolution comes first
        target = target[0] if isinstance(target, list) else target
        predicted, truth = output.argmax(1), target[:, 0].to(output.device)
        for tumour, organ in zip(*unknown.nonzero(), strict=True):
            found[organ] += int(((predicted == tumour + 1) & (truth == organ + 1)).sum())
        return found

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """As nnU-Net's; its summary.json then leaves out what a case does not annotate."""
        super().perform_actual_validation(save_probabilities)
        if self.cases.partial and self.local_rank == 0:
            labels = labels_of(self.plans_manager, self.dataset_json, self.classes)
            summary = rewrite_summary(Path(self.output_folder, "validation"), self.cases, labels)
            self.print_to_log_file(
                f"Mean validation Dice over what each case annotates: {summary['foreground_mean']['Dice']:.4f}"
            )


def describe_length(trainer: ShortRuns) -> str:
    """What the training amounts to, for the log: a variable left in the shell may have shortened it."""
    epochs = "1 epoch" if trainer.num_epochs == 1 else f"{trainer.num_epochs} epochs"
    steps = f"{epochs} of {trainer.num_iterations_per_epoch} training steps"
    return f"{steps} (MASTPRO_EPOCH_ITERATIONS is set)" if EPOCH_ITERATIONS in os.environ else steps


def describe_cases(cases: Cases, trained_on: Sequence[str]) -> list[str]:
    """Whether labels are partial, for the log."""
    if not cases.partial:
        number = len(trained_on)
        return [f"Partial labels: none by mastpro.cases; in all of {number} training cases every class was looked for."]
    told = f"Partial labels: {cases.number_partial()} of the cases in mastpro.cases annotate some of the classes only."
    presumed = [case for case in trained_on if cases.presumed(case)]
    if not presumed:
        return [told]
    return [
        told,
        f"WARNING: {len(presumed)} training cases are not in mastpro.cases and count as annotated in whole: what their "
        f"annotators did not look for is learnt as background ({some(presumed)}). If they come from a later merge, "
        "preprocess again.",
    ]
