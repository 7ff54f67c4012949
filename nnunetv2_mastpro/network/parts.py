"""What of the network is trained: its parts, what a tumour type owns, what is frozen."""

from collections.abc import Sequence

from torch import nn

BACKBONE = "backbone."  # of names in the network's state
ANATOMY = "anatomy.encode."  # where a frozen encoder of organ masks is
FIXED_HEAD = "fixed head"  # the name of the part
TRAINED, WITH_UPDATES, WITH_ADDED = 1, 2, 4  # of the buffer `trained`; the last two: and with changes of frozen weights


class Parts(nn.Module):
    """Of MASTProNet, which makes them."""

    def freeze_backbone(self) -> None:
        """PEFT: the backbone's parameters, its norms' too, stay as they are; their updates, if any, are trained."""
        self.backbone.requires_grad_(False)
        if self.updates is not None:
            self.updates.requires_grad_(True)
        self.backbone.eval()

    def own_parameters(self, classes: Sequence[int]) -> list[nn.Parameter]:
        """What belongs to these tumour types alone: experts, router rows, offset, updates of weights."""
        own = [offset for index, offset in zip(self.added, self.offsets, strict=True) if index in classes]
        for index in classes:
            own += [p for moe in self.experts.values() for p in moe.own_parameters(self.tumor_classes.index(index))]
            if index in self.added:
                own += self.added_updates[self.added.index(index)].parameters()
        return own

    def freeze_all_but(self, classes: Sequence[int]) -> None:
        """Only what these tumour types own is trained: nothing that another type's output comes from moves."""
        self.freeze_backbone()
        self.requires_grad_(False)
        for parameter in self.own_parameters(classes):
            parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> "Parts":
        """As nn.Module; a frozen backbone stays in evaluation, so that running statistics stay as they are."""
        super().train(mode)
        self.backbone.train(mode and self.backbone_is_trained)
        return self

    def mark_trained(self) -> None:
        """A checkpoint may be built upon: by a network that has the changes of frozen weights, if any, as well."""
        changes = WITH_UPDATES if self.updates is not None and self.updates.change_something else 0
        self.trained.fill_(TRAINED | changes | (WITH_ADDED if self.added else 0))

    @property
    def backbone_is_trained(self) -> bool:
        """False after freeze_backbone."""
        return any(parameter.requires_grad for parameter in self.backbone.parameters())

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by part; the one list behind optimizer and start-up table."""
        head = [*self.head.parameters()] + ([] if self.background is None else [self.background])
        parts = {
            "backbone": [*self.backbone.parameters()],
            "experts": [*self.experts.parameters()],
            "weight updates": [p for part in (self.updates, self.added_updates) if part for p in part.parameters()],
            "learned prompts": [*self.text.parameters()],
            "fusion": [*self.fusion.parameters()],
            "anatomy encoder": [] if self.anatomy is None else [*self.anatomy.parameters()],
            "mask proposal" if self.head.generated else FIXED_HEAD: head,
            "added prompts": [*self.offsets],
        }
        return {name: parameters for name, parameters in parts.items() if parameters}
