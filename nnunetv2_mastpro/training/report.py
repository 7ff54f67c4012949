"""What the training log says of the network: parts, classes, adapted stages, expert usage."""

from collections.abc import Iterator

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.listing import kind
from nnunetv2_mastpro.network.anatomy import AnatomyEncoder, FrozenSwin
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.network.text import ShuffledPrompts

EVERYTHING = "Everything is trained"
FINE_TUNING = "The backbone is frozen: parameter-efficient fine-tuning (PEFT)."


def describe_network(
    network: MASTProNet, config: MASTProConfig, origins: tuple[str, ...], continued: bool = False
) -> Iterator[str]:
    """The start-up table, line by line; `continued`: of a training that goes on from its checkpoint."""
    yield "\nMAST-Pro: parameters by part"
    yield f"{'part':<16}{'total':>14}{'trainable':>14}"
    rows = {
        name: (sum(p.numel() for p in part), sum(p.numel() for p in part if p.requires_grad))
        for name, part in network.parts().items()
    }
    rows["all"] = tuple(map(sum, zip(*rows.values(), strict=True)))
    for name, (total, trainable) in rows.items():
        yield f"{name:<16}{total:>14,}{trainable:>14,}"
    if config.training.new_types and not rows["backbone"][1]:
        yield f"All is frozen but what the new types own: {', '.join(config.training.new_types)}."
    elif rows["backbone"][1]:
        reason = "as before" if continued else "no trained backbone was loaded"
        reason = "mastpro.training.mode is full" if config.training.mode == "full" else reason
        yield f"{EVERYTHING} ({reason})."
    else:
        yield FINE_TUNING
    if isinstance(getattr(network.anatomy, "encode", None), FrozenSwin):
        yield "The encoder of organ masks is frozen (anatomy_encoder swin)."
    sites = ", ".join(f"{site.name} ({site.channels} channels)" for site in network.receipt)
    yield f"Stages with experts: {sites or 'none, so no expert_usage.json is written'}"
    if network.updates is not None:
        yield f"Low-rank updates of the backbone's weights: {len(network.updates.keys)} tensors"
    yield from describe_ablations(network, config)
    yield f"\nClasses, and the prompts that stand for them (encoder {config.prompts.encoder})"
    for entry, origin in zip(config.resolved.classes, origins, strict=True):
        yield f"{entry.label} [{kind(entry.is_tumor)}, embedding {origin}]: {entry.sentence}"
    tasks = [entry.label for entry in config.resolved.classes if entry.is_tumor]
    if network.receipt:
        yield f"Tumour types with experts of their own: {', '.join(tasks) or 'none (generic experts only)'}\n"
    if isinstance(network.anatomy, AnatomyEncoder):
        yield from describe_hosts(config)


def describe_hosts(config: MASTProConfig) -> Iterator[str]:
    """A line per value of the host-organ maps, and which classes have none."""
    for host in config.resolved.hosts:
        hosted = ", ".join(config.resolved.classes[index].label for index in host.classes)
        yield f"Host-organ map, value {host.value}: {', '.join(host.structures)} (host of {hosted})"
    hostless = [entry.label for entry in config.resolved.classes if not entry.host_structures]
    if hostless:
        yield f"No host organ is known for {', '.join(hostless)}: the learned unknown token stands for it"


def describe_ablations(network: MASTProNet, config: MASTProConfig) -> Iterator[str]:
    """One line for each part that another stands for."""
    ablate = config.network.ablate
    if config.network.fixed_head:
        yield "Ablated: text and anatomy; no prompt is read, and the planned network's own output layers are the head."
    elif "text" in ablate:
        yield "Ablated: text; a learned vector per class stands for its sentence."
    elif "anatomy" in ablate:
        yield "Ablated: anatomy; organ masks are not read."
    if "experts" in ablate:
        yield "Ablated: experts."
    if isinstance(network.text, ShuffledPrompts):
        labels = [entry.label for entry in config.resolved.classes]
        pairs = [f"{label} takes {labels[other]}'s" for label, other in zip(labels, network.text.order, strict=True)]
        yield f"Text shuffled among the classes: {', '.join(pairs)}."
