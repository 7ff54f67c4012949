"""nnUNetTrainerMASTPro: nnU-Net's trainer with the MAST-Pro network, loss and recipe."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from nnunetv2_mastpro.adapters import write_adapters
from nnunetv2_mastpro.anatomy.given import check_given_maps
from nnunetv2_mastpro.anatomy.preprocessed import check_training_maps, training_folder
from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.training.build import build_planned
from nnunetv2_mastpro.training.loss import MASTProLoss
from nnunetv2_mastpro.training.patches import Patches
from nnunetv2_mastpro.training.prediction import limit, read_settings
from nnunetv2_mastpro.training.ranks import gathered, unwrapped
from nnunetv2_mastpro.training.recipe import epoch_variants
from nnunetv2_mastpro.training.setup import check_goes_on, check_same_classes, check_same_embeddings, resolve, settle
from nnunetv2_mastpro.training.trained_parts import TrainedParts
from nnunetv2_mastpro.training.usage import ALL, ExpertUsage


class nnUNetTrainerMASTPro(Patches, TrainedParts):
    """Trains D-MoE, prompt fusion and generated head in the network that nnU-Net planned.

    From scratch it trains everything. Started with `-pretrained_weights` whose backbone is trained (the buffer
    `trained` says so) it freezes the backbone and trains the rest (PEFT, Sec. 2.3) at peft_learning_rate of the plans;
    mastpro.training.mode of the plans asks for one of the two. Where the plans name new types
    (mastpro.training.new_types, as `mastpro add-tumour` writes them) it trains only what these types own.
    """

    takes_organ_masks = True
    mode: str | None = None  # what the trainer asks for in place of the plans
    ablate: tuple[str, ...] = ()  # parts that the trainer replaces, besides mastpro.network.ablate of the plans

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        self.continues = plans.get("continue_training", False)  # --c; nnU-Net takes it out of the plans
        self.mastpro, self.embeddings = resolve(plans, dataset_json, self.ablate)  # before nnU-Net makes its folders
        if self.mode is not None:
            training = dataclasses.replace(self.mastpro.training, mode=self.mode)
            self.mastpro = dataclasses.replace(self.mastpro, training=training)
        settle(plans, configuration, self.mastpro, type(self).__name__)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.build_network_architecture = build_planned  # training limits nothing
        if self.takes_anatomy and self.preprocessed_dataset_folder is not None:  # a cascade without a first stage
            self.folder_with_segs_from_previous_stage = str(training_folder(Path(self.preprocessed_dataset_folder)))

    def find_classes(self, plans: dict, dataset_json: dict) -> tuple:
        return self.mastpro.resolved.classes

    def listeners(self) -> list[torch.nn.Module]:
        return [*super().listeners(), self.loss, self.bare_network]

    @staticmethod
    def build_network_architecture(
        plans_manager,
        configuration_manager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> MASTProNet:
        """What nnU-Net's prediction asks for: the network, limited as plans and environment say.

        Raises MASTProError for settings that the model cannot follow, and for maps that are not of its images.
        """
        network = build_planned(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        config = MASTProConfig.from_dict(plans_manager.plans["mastpro"])
        if network.anatomy is not None:
            check_given_maps(sys.argv, config.resolved.hosts)
        settings = read_settings(config)
        for line in limit(network, settings, config):
            print(line)
        # nnU-Net writes these plans beside its output
        plans_manager.plans["mastpro"] = dataclasses.replace(config, prediction=settings).to_dict()
        return network

    @property
    def bare_network(self) -> MASTProNet:
        """The network itself."""
        return unwrapped(self.network)

    def initialize(self) -> None:
        super().initialize()
        self.restore_prompts()

    def restore_prompts(self) -> None:
        """Put the embeddings of the data set's sentences into the network: -pretrained_weights overwrites them."""
        buffer = self.bare_network.embeddings
        buffer.copy_(self.embeddings.vectors.to(buffer))

    def _build_loss(self) -> MASTProLoss:
        classes = self.mastpro.resolved.classes
        tumors = [index for index, entry in enumerate(classes) if entry.is_tumor]
        return MASTProLoss(
            super()._build_loss(),
            supervised=tumors or list(range(len(classes))),
            has_regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            presence_weight=self.mastpro.training.presence_weight,
            balance_weight=self.mastpro.training.balance_weight,
            ddp=self.is_ddp,
        )

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        # not super(): nnU-Net's flag sits in its decoder, and after validation it asks without looking
        self.bare_network.deep_supervision = enabled and self.enable_deep_supervision

    def check_maps(self) -> None:
        """Raise MASTProError unless every preprocessed case has a sound host-organ map; nnU-Net would not notice."""
        if self.takes_anatomy:
            folder, data = Path(self.folder_with_segs_from_previous_stage), Path(self.preprocessed_dataset_folder)
            cases = self.dataset_class.get_identifiers(str(data))
            plans = self.plans_manager.plans["plans_name"]
            check_training_maps(folder, data, cases, self.mastpro.resolved.hosts, plans)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        self.check_maps()
        super().perform_actual_validation(save_probabilities)

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self.check_maps()
        self.decide_what_is_trained()
        super().on_train_start()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        tumors = [self.mastpro.resolved.classes[index].label for index in self.bare_network.tumor_classes]
        self.usage = ExpertUsage(self.bare_network, tumors)

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(batch)
        self.usage.add(self.loss.seen[:, self.bare_network.tumor_classes])
        return result

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        self.bare_network.mark_trained()
        self.write_usage()

    def write_usage(self) -> None:
        """expert_usage.json: how often each expert was kept in the last epoch, by stage and type in the patch."""
        if not self.bare_network.receipt:
            return  # no experts to be kept, which the start-up table says
        sums = gathered(self.usage.sums.cpu())
        if self.local_rank != 0:
            return
        self.usage.sums = sum(sums)
        report = self.usage.report()
        shares = [share for types in report["kept"].values() for owner in types[ALL].values() for share in owner]
        self.print_to_log_file(f"Experts never kept in this epoch: {shares.count(0)} of {len(shares)}")
        content = json.dumps({"epoch": self.current_epoch, **report}, indent=2)
        write_atomically({Path(self.output_folder, "expert_usage.json"): content.encode()})

    def save_checkpoint(self, filename: str) -> None:
        super().save_checkpoint(filename)
        if self.local_rank == 0 and not self.disable_checkpointing:
            write_adapters(
                self.bare_network,
                self.my_init_kwargs,
                type(self).__name__,
                self.inference_allowed_mirroring_axes,
                Path(filename),
            )

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        if not self.was_initialized:
            self.initialize()
        saved = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False, mmap=True)
        check_same_classes(saved, self.plans_manager.plans["mastpro"]["resolved"], filename_or_checkpoint)
        check_same_embeddings(saved["network_weights"]["embeddings"], self.embeddings.vectors, filename_or_checkpoint)
        check_goes_on(saved, filename_or_checkpoint)
        if not self.fits_optimizer(saved["optimizer_state"]):
            self.freeze()  # the run to be continued was PEFT
        super().load_checkpoint(filename_or_checkpoint)


class nnUNetTrainerMASTProPretrain(nnUNetTrainerMASTPro):
    """Stage 1 of the paper: trains the whole network, from given weights too."""

    mode = "full"


globals().update(epoch_variants(nnUNetTrainerMASTPro, __name__))
globals().update(epoch_variants(nnUNetTrainerMASTProPretrain, __name__))
