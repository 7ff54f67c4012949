"""Which parameters a training moves, at which rate: all, all but the backbone (PEFT), or what new types own."""

from pathlib import Path

import torch

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.parts import FIXED_HEAD, WITH_ADDED, WITH_UPDATES
from nnunetv2_mastpro.training.ranks import wrap_anew
from nnunetv2_mastpro.training.recipe import AdamWRecipe
from nnunetv2_mastpro.training.report import EVERYTHING, FINE_TUNING, describe_network
from nnunetv2_mastpro.training.setup import find_changed_prompts


class TrainedParts(AdamWRecipe):
    """Decides when training starts. A MAST-Pro trainer's: with `mastpro`, `embeddings`, `bare_network` and its loss."""

    @property
    def new_classes(self) -> list[int]:
        """Those that are added to a trained model."""
        labels = [entry.label for entry in self.mastpro.resolved.classes]
        return [labels.index(name) for name in self.mastpro.training.new_types]

    def parameter_groups(self) -> list[dict]:
        """Backbone, updates, experts and a fixed head at the full rate; what prompts feed at a share of it.

        PEFT without updates of the backbone has one rate, the paper's.
        """
        network = self.bare_network
        parts = {name: [p for p in part if p.requires_grad] for name, part in network.parts().items()}
        if not (network.backbone_is_trained or network.updates or self.mastpro.training.new_types):
            return [{"params": sum(parts.values(), [])}]
        full = ("backbone", "weight updates", "experts", FIXED_HEAD)
        at_full_rate = [p for name, part in parts.items() if name in full for p in part]
        at_a_share = [p for name, part in parts.items() if name not in full for p in part]
        groups = [{"params": at_full_rate}, {"params": at_a_share, "share": self.mastpro.training.prompt_share}]
        return [group for group in groups if group["params"]]

    def freeze(self) -> None:
        """PEFT: train all but the backbone, or what new types own only; optimizer and DDP are built anew."""
        training = self.mastpro.training
        if training.new_types:
            self.bare_network.freeze_all_but(self.new_classes)
            self.initial_lr = training.added_learning_rate
        else:
            self.bare_network.freeze_backbone()
            self.initial_lr = training.peft_learning_rate
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        if self.is_ddp:
            self.network = wrap_anew(self.network)

    def fits_optimizer(self, state: dict) -> bool:
        """Whether an optimizer's state is of the parameters that are optimized now: as many, of the same shapes."""
        now = [p for group in self.optimizer.param_groups for p in group["params"]]
        then = [index for group in state["param_groups"] for index in group["params"]]
        moments = [(index, m) for index, values in state["state"].items() for m in values.values()]
        shapes = [(index, m.shape) for index, m in moments if isinstance(m, torch.Tensor) and m.ndim]  # not the count
        return len(now) == len(then) and all(now[index].shape == shape for index, shape in shapes)

    def check_nothing_is_lost(self) -> None:
        """Raise MASTProError where the weights were trained with changes of frozen ones that this network has not.

        nnU-Net takes of a file what the network has, and leaves the rest without a word.
        """
        network, given = self.bare_network, int(self.bare_network.trained)
        if given & WITH_UPDATES and network.updates is None:
            raise MASTProError(
                "the pretrained weights were trained with updates of the backbone, and the plans have none; set "
                "mastpro.network.backbone_rank in the plans to that of the plans.json beside the weights"
            )
        if given & WITH_ADDED and not network.added:
            raise MASTProError(
                "the pretrained weights are of a model to which tumour types were added, each with weights of its own, "
                "and in the plans they are ordinary ones; give what mastpro weights makes of the file for these plans"
            )

    def settle_prompts(self) -> None:
        """At the start -pretrained_weights' prompts give way to the data set's own; new types are trained with theirs.

        Raises MASTProError for weights of classes in another order, and for new types of other prompts.
        """
        labels = [entry.label for entry in self.mastpro.resolved.classes]
        changed = find_changed_prompts(self.bare_network.embeddings.cpu(), self.embeddings.vectors, labels)
        if changed and self.mastpro.training.new_types:
            raise MASTProError(
                f"the weights were trained with other prompts for {', '.join(changed)}, and new types must not change "
                "them; start with mastpro add-tumour, and with the text encoder of that model"
            )
        if changed:
            self.print_to_log_file(
                f"The pretrained weights were trained with other prompts in the place of {', '.join(changed)}."
            )
        if not self.mastpro.training.new_types:
            self.restore_prompts()

    def was_fine_tuning(self) -> bool:
        """Whether the last log in this folder that tells what is trained says so."""
        logs = sorted(Path(self.output_folder).glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime_ns)
        texts = (path.read_text(encoding="utf-8", errors="replace") for path in reversed(logs))
        return next((FINE_TUNING in text for text in texts if FINE_TUNING in text or EVERYTHING in text), False)

    def decide_what_is_trained(self) -> None:
        """Everything, all but the backbone, or what new types own; and say so. Raises MASTProError as the plans ask."""
        training, starts = self.mastpro.training, self.current_epoch == 0
        pretrained = starts and bool(self.bare_network.trained)  # only -pretrained_weights brings one to epoch 0
        encoder = getattr(self.bare_network.anatomy, "encode", None)
        if not getattr(encoder, "pretrained", True):
            raise MASTProError(
                "mastpro.network.anatomy_encoder is 'swin', which is never trained, but no weights of it were given; "
                "give a file that mastpro weights --from model_swinvit.pt makes to -pretrained_weights"
            )
        if starts and training.new_types and not pretrained:
            raise MASTProError(
                f"the plans add {', '.join(training.new_types)} to a trained model, but no weights of it "
                "were given; start with mastpro add-tumour, or give its checkpoint_start.pth to -pretrained_weights"
            )
        if starts and training.mode == "peft" and not pretrained:
            raise MASTProError(
                "mastpro.training.mode is 'peft', but no weights with a trained backbone were given; give a MAST-Pro "
                "checkpoint or what mastpro weights makes to -pretrained_weights, or set the mode to 'auto'"
            )
        if starts and self.continues and not pretrained and self.was_fine_tuning():
            raise MASTProError(
                f"--c found no checkpoint in {self.output_folder}, where fine-tuning had begun; it would begin anew "
                "without the pretrained weights, so give -pretrained_weights again in its place"
            )
        if starts:
            self.check_nothing_is_lost()
            self.settle_prompts()
        if pretrained and training.mode != "full":
            self.freeze()
        if self.local_rank == 0:
            for line in describe_network(self.bare_network, self.mastpro, self.embeddings.origins, not starts):
                self.print_to_log_file(line, add_timestamp=False)
            shares = [group["share"] for group in self.optimizer.param_groups if "share" in group]
            less = f", {shares[0]:g} of it (prompt_share) for what prompts feed" if shares else ""
            name = type(self.optimizer).__name__
            self.print_to_log_file(f"{name}, learning rate up to {self.initial_lr:g}{less}", add_timestamp=False)
