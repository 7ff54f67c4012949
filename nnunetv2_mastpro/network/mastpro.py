"""The MAST-Pro network: planned backbone, D-MoE, prompt fusion, generated head (Fig. 1).

B batch, T classes, K outputs, D text width, S supervised stages.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mastpro.network.anatomy import AnatomyEncoder, UnreadAnatomy
from nnunetv2_mastpro.network.fusion import NoFusion, PromptFusion
from nnunetv2_mastpro.network.head import FixedHead, MaskProposal, apply_kernel
from nnunetv2_mastpro.network.inject import AdaptedSite
from nnunetv2_mastpro.network.output import TrainingOutput, fill_left_out, nothing_found, stack_choices, together
from nnunetv2_mastpro.network.parts import Parts
from nnunetv2_mastpro.network.text import LearnedPrompts, SentencePrompts
from nnunetv2_mastpro.network.unet import UNetBackbone
from nnunetv2_mastpro.network.updates import WeightUpdates, run, updated


class MASTProNet(Parts):
    """Segments T classes, each described by the embedding of its sentence.

    embeddings (T, D) are a persistent buffer: a checkpoint needs no text encoder. `is_tumor` (T) marks the tumour
    types, which own experts in the order in which they occur. With `has_background` a learned prompt gives the
    background's kernel, and outputs are background, class 1, ...

    In training mode returns TrainingOutput; in evaluation the logits, a list while `deep_supervision` is on, as
    nnU-Net's own networks do. The coarsest decoder stage is never supervised: nnU-Net's loss gives it no weight.

    With `anatomy` the last channels of the image are those of the host-organ map, which the backbone never sees. Then
    tumour types are selected by patch: in evaluation those whose host is in it, all where that is unknown; in training
    that only in a share `host_task_share` of the samples. Where the trainer has set `annotated` (B, T), a share
    `annotated_task_share` has the types selected that the sample annotates, if it does any of a pass. The other samples
    have all.

    Classes in `left_out` take no part in evaluation: the parameters of the others alone are gathered, so that a network
    that has more classes computes the others' logits as one without them does. `added`: types that were appended to a
    trained network, the last classes. Each has an offset of its prompt, zero at the start, and in `added_updates` its
    own updates of the weights of backbone, fusion and head. Its logit comes from a pass of its own, which these change,
    so that all other logits are those of the network without it. `updates`: those that PEFT trains.

    Ablations are other parts: LearnedPrompts or ShuffledPrompts for `text`, UnreadAnatomy, NoFusion, FixedHead, no
    `experts`.
    """

    def __init__(
        self,
        *,
        backbone: UNetBackbone,
        experts: nn.ModuleDict,
        receipt: list[AdaptedSite],
        text: SentencePrompts | LearnedPrompts,
        fusion: PromptFusion | NoFusion,
        head: MaskProposal | FixedHead,
        embeddings: Tensor,
        is_tumor: list[bool],
        has_background: bool,
        deep_supervision: bool,
        anatomy: AnatomyEncoder | UnreadAnatomy | None = None,
        host_task_share: float = 0.5,
        annotated_task_share: float = 0.25,
        added: Sequence[int] = (),
        updates: WeightUpdates | None = None,
        added_updates: Sequence[WeightUpdates] = (),
    ):
        super().__init__()
        self.backbone, self.experts, self.text, self.fusion, self.head = backbone, experts, text, fusion, head
        self.anatomy, self.host_task_share, self.annotated_task_share = anatomy, host_task_share, annotated_task_share
        self.annotated: Tensor | None = None
        self.receipt, self.deep_supervision = receipt, deep_supervision
        self.tumor_classes = [index for index, tumor in enumerate(is_tumor) if tumor]
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("trained", torch.tensor(0))  # not yet; then what mark_trained says
        self.added = list(added)
        self.updates, self.added_updates = updates, nn.ModuleList(added_updates)
        if updates is not None:
            updates.requires_grad_(False)  # until the backbone is frozen
        self.offsets = nn.ParameterList([torch.zeros(embeddings.shape[1]) for _ in self.added])
        self.has_background = has_background
        prompted = has_background and head.generated
        self.background = nn.Parameter(torch.randn(1, embeddings.shape[1])) if prompted else None
        self.left_out: list[int] = []  # classes that prediction does not look for
        self.skip_empty = False  # prediction runs the network only where a host organ is

    def forward(self, image: Tensor, task_mask: Tensor | None = None) -> TrainingOutput | list[Tensor] | Tensor:
        """image (B, channels, spatial); task_mask (B, number of tumour types) of {0, 1}, None selects them itself."""
        organs = seen = None
        classes = self.looked_for()
        if self.anatomy is not None:
            image, organs = image.split([image.shape[1] - self.anatomy.table.shape[1], self.anatomy.table.shape[1]], 1)
            seen = self.anatomy.drop(organs)
        passes, kept = [], []
        for found in self.passes(classes):
            skipped = self.skips(organs, found)
            passes.append(self.pass_over(image, found) if skipped else self.look_for(image, seen, task_mask, found))
            kept.append([moe.kept for moe in self.experts.values()])
        if self.training and len(passes) > 1:
            for moe, shares in zip(self.experts.values(), zip(*kept, strict=True), strict=True):
                moe.kept = torch.stack(shares).amax(0)  # a type's own experts take part in its own pass
        output = together(passes, self.has_background)
        logits = output.logits
        if classes is not None:
            logits = [fill_left_out(stage, len(self.embeddings), self.has_background, classes) for stage in logits]
        logits = logits if self.deep_supervision else logits[0]
        return TrainingOutput(logits, output.presence, output.choices) if self.training else logits

    def passes(self, classes: list[int] | None) -> list[list[int] | None]:
        """The classes of each pass: all but the added types, then for each of these those and it; None is all."""
        if not self.added:
            return [classes]
        kept = list(range(len(self.embeddings))) if classes is None else classes
        old = [index for index in kept if index not in self.added]
        return [old] * bool(old) + [[*old, index] for index in kept if index in self.added]

    def look_for(
        self, image: Tensor, organs: Tensor | None, task_mask: Tensor | None, classes: list[int] | None
    ) -> TrainingOutput:
        """One pass, for `classes` alone where they are given. Logits as a list."""
        types = None if classes is None else [self.tumor_classes.index(i) for i in classes if i in self.tumor_classes]
        if task_mask is None:
            task_mask = self.select_tasks(image, organs, classes)
        elif types is not None:
            task_mask = task_mask[:, types]
        choices, weights = [], self.updated_weights(classes)

        def adapt(site: str, features: Tensor) -> Tensor:
            if site in self.experts:
                features, chosen = self.experts[site](features, task_mask, types)  # Eq. 3-5
                choices.append(chosen)
            return features

        text = self.prompts(classes)  # (T, D)
        *skips, bottleneck = run(self.backbone, "backbone", weights, "encode", image, adapt)
        prior = None if organs is None else self.anatomy(organs, bottleneck.shape[2:], classes)  # Eq. 2
        selected = self.selected_classes(task_mask, classes)
        attended = run(self.fusion, "fusion", weights, bottleneck, text, selected, prior)  # Eq. 6
        decoded = run(self.backbone, "backbone", weights, "decode", [*skips, bottleneck + attended], adapt)  # Eq. 7
        prompts = text if self.background is None else torch.cat([self.background, text])
        kernels = run(self.head, "head", weights, attended, prompts)  # Eq. 8
        stages = len(kernels.stages) if self.deep_supervision else 1
        logits = [apply_kernel(decoded[-1 - s], kernels.stages[s]) for s in range(stages)]
        choices = stack_choices(choices, image) if self.training else None
        return TrainingOutput(logits, kernels.presence[:, int(self.has_background) :], choices)

    def skips(self, organs: Tensor | None, classes: list[int] | None) -> bool:
        """Whether organs (B, L, spatial) lack every host of what this pass is for, an added type or all `classes`."""
        if organs is None or not self.skip_empty or self.training:
            return False
        own = classes[-1:] if classes and classes[-1] in self.added else classes
        return not self.anatomy.find(organs, own)[0].any()

    def pass_over(self, image: Tensor, classes: list[int] | None) -> TrainingOutput:
        """What a skipped pass says."""
        return nothing_found(image, len(self.embeddings if classes is None else classes), self.has_background)

    def looked_for(self) -> list[int] | None:
        """The classes that take part where some are left out, else None. Nothing is left out in training."""
        if self.training or not self.left_out:
            return None
        return [index for index in range(len(self.embeddings)) if index not in self.left_out]

    def updated_weights(self, classes: list[int] | None) -> dict[str, Tensor]:
        """By name, those that fine-tuning or the added type of this pass changes; `classes` as `passes` gives them."""
        updates = [] if self.updates is None else [self.updates]
        updates += [self.added_updates[place] for place, index in enumerate(self.added) if index in classes]
        return updated(self.get_parameter, updates)

    def prompts(self, classes: list[int] | None = None) -> Tensor:
        """(T, D): what the text part makes of the embeddings, an added type's with its offset."""
        classes = list(range(len(self.embeddings))) if classes is None else classes
        text = self.text(self.embeddings, classes)
        # by place: torch.compile of some versions cannot zip a list of parameters
        offsets = [self.offsets[place] for place, index in enumerate(self.added) if index in classes]
        if not offsets:
            return text
        places = [classes.index(index) for index in self.added if index in classes]
        return text.index_add(0, torch.tensor(places, device=text.device), torch.stack(offsets))

    def select_tasks(self, image: Tensor, organs: Tensor | None, classes: list[int] | None = None) -> Tensor:
        """(B, number of tumour types) of {0, 1} from organs (B, L, spatial)."""
        tumors = self.tumor_places(classes)
        hosted = everything = image.new_ones(len(image), len(tumors))
        if organs is not None:
            present, known = self.anatomy.find(organs, classes)
            hosted = (present | ~known)[:, tumors].to(everything.dtype)
        if not self.training:
            return hosted
        annotated = everything
        if self.annotated is not None:
            places = tumors if classes is None else [classes[place] for place in tumors]
            annotated = self.annotated[:, places].to(everything.dtype)
            some = annotated.any(1, keepdim=True)  # not where a case annotates organs or an added type alone
            annotated = torch.where(some, annotated, everything)
        drawn = torch.rand(len(image), 1, device=image.device)
        selected = torch.where(drawn >= 1 - self.annotated_task_share, annotated, everything)
        return torch.where(drawn < self.host_task_share, hosted, selected)

    def tumor_places(self, classes: list[int] | None = None) -> list[int]:
        """Where the tumour types are among the classes that take part."""
        kept = range(len(self.embeddings)) if classes is None else classes
        return [place for place, index in enumerate(kept) if index in self.tumor_classes]

    def selected_classes(self, task_mask: Tensor, classes: list[int] | None = None) -> Tensor:
        """(B, T) bool: organs always, tumour types where their task is on."""
        count, tumors = len(self.embeddings if classes is None else classes), self.tumor_places(classes)
        columns = [tumors.index(place) if place in tumors else len(tumors) for place in range(count)]
        # not written into a tensor of ones: torch.compile's inductor lets other ones share it
        return F.pad(task_mask.bool(), (0, 1), value=True)[:, columns]
