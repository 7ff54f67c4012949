"""What parameter-efficient fine-tuning of SwinUNETR saves, against MONAI's SwinUNETR fully trained, in one run.

    python benchmarks/peft_cost.py [--feature-size 24] [--side 64] [--batch 2] [--repeats 3] [--estimate]

Networks: MONAI's SwinUNETR, the same with the plugin's fused attention, and on that the Universal Model's head,
MAST-Pro with everything trained, and MAST-Pro with the backbone frozen (PEFT), each with and without activation
checkpointing of the Swin blocks. They take turns, so that a drift of the machine is shared.
Activations are what a forward pass keeps for backward beyond the parameters (saved_tensors_hooks), every storage
counted once. --estimate adds the paper's size, 96^3, batch 4, feature size 48, in bfloat16 autocast: the same count on
tensors without storage, and with it parameters, gradients and optimizer state; at the measured size it is compared with
the count on real tensors and with the peak of a process (Linux).
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

import torch
from cost import peak_growth_kib
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mastpro.config import ClassSpec, NetworkConfig, Resolved
from nnunetv2_mastpro.network.build import build_mastpro
from nnunetv2_mastpro.network.experts import load_balance
from nnunetv2_mastpro.network.output import TrainingOutput
from nnunetv2_mastpro.network.swin import PlannedSwinUNETR, SwinBackbone
from nnunetv2_mastpro.network.universal import UniversalHead, UniversalNet

TYPES, EMBEDDING_DIM, MIB = 8, 384, 2**20
PLAIN, FUSED = "MONAI's SwinUNETR", "the same, fused attention"
UNIVERSAL, PEFT = "Universal Model's head", "MAST-Pro, PEFT"
KINDS = (PLAIN, FUSED, UNIVERSAL, "MAST-Pro, all trained", PEFT)


def make(kind: str, feature_size: int, checkpointed: bool) -> nn.Module:
    """In training mode; all but MONAI's own have the plugin's fused attention, so that they differ in their heads."""
    torch.manual_seed(0)
    options = {"feature_size": feature_size, "use_checkpoint": checkpointed}
    planned = PlannedSwinUNETR(1, 1 + TYPES, fused_attention=kind != PLAIN, **options)
    if kind in (PLAIN, FUSED):
        return planned.train()
    if kind == UNIVERSAL:
        head = UniversalHead(
            image_dim=16 * feature_size, text_dim=EMBEDDING_DIM, decoder_dim=feature_size, hidden=256, axes=3
        )
        sentences = torch.randn(TYPES, EMBEDDING_DIM)
        backbone = SwinBackbone(planned)
        return UniversalNet(backbone=backbone, head=head, sentences=sentences, has_background=True).train()
    classes = tuple(ClassSpec(f"tumour {index}", "", True) for index in range(TYPES))
    network = build_mastpro(planned, NetworkConfig(), Resolved(classes, EMBEDDING_DIM, True), False)
    network.embeddings.normal_()
    if kind == PEFT:
        network.freeze_backbone()
    return network.train()


def loss_of(output: torch.Tensor | TrainingOutput, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, and for MAST-Pro what else it trains on."""
    if isinstance(output, TrainingOutput):
        return loss_of(output.logits, target) + output.presence.float().square().mean() + load_balance(output.choices)
    return nn.functional.cross_entropy(output.float(), target)


@contextmanager
def counting(network: nn.Module) -> Iterator[dict]:
    """Bytes of what is kept for backward, by storage."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a storage that is freed early could lend its address to another

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def activation_mib(network: nn.Module, image: torch.Tensor, autocast: bool) -> float:
    with counting(network) as kept, torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        network(image)
    return sum(kept.values()) / MIB


def state_mib(network: nn.Module) -> dict[str, float]:
    """Parameters, gradients and AdamW's two moments, in float32."""
    trained = sum(p.nbytes for p in network.parameters() if p.requires_grad) / MIB
    return {
        "parameters": sum(p.nbytes for p in network.parameters()) / MIB,
        "gradients": trained,
        "optimizer": 2 * trained,
    }


def time_step(network: nn.Module, optimizer, image, target) -> dict[str, float]:
    """Seconds of forward, backward and the whole step."""
    started = time.perf_counter()
    loss = loss_of(network(image), target)
    forward = time.perf_counter()
    loss.backward()
    backward = time.perf_counter()
    optimizer.step()
    optimizer.zero_grad()
    ended = time.perf_counter()
    return {"forward": forward - started, "backward": backward - forward, "step": ended - started}


def time_prediction(network: nn.Module, image: torch.Tensor) -> float:
    network.eval()
    with torch.no_grad():
        started = time.perf_counter()
        network(image)
        ended = time.perf_counter()
    network.train()
    return ended - started


def sizes_of(network: nn.Module) -> dict[str, float]:
    """Millions of parameters."""
    parameters = list(network.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters) / 1e6,
        "trainable": sum(p.numel() for p in parameters if p.requires_grad) / 1e6,
    }


def times(
    feature_size: int, side: int, batch: int, repeats: int, checkpointed: bool
) -> tuple[dict[str, nn.Module], dict[str, dict[str, float]]]:
    """The networks, and by kind the median seconds of forward, backward, step and prediction; the first warms up."""
    image, target = torch.randn(batch, 1, *[side] * 3), torch.randint(0, 1 + TYPES, (batch, *[side] * 3))
    networks = {kind: make(kind, feature_size, checkpointed) for kind in KINDS}
    optimizers = {
        kind: torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-5)
        for kind, network in networks.items()
    }
    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for _ in range(repeats + 1):
        for kind, network in networks.items():
            spent = time_step(network, optimizers[kind], image, target)
            found[kind].append({**spent, "prediction": time_prediction(network, image)})
    return networks, {
        kind: {what: median(run[what] for run in runs[1:]) for what in runs[0]} for kind, runs in found.items()
    }


def measure(feature_size: int, side: int, batch: int, repeats: int) -> None:
    """The Markdown table of everything measured."""
    image = torch.randn(batch, 1, *[side] * 3)
    print(f"feature size {feature_size}, patch {side}^3, batch {batch}, float32, {TYPES} tumour types\n")
    head = ["network", "checkpointing", "parameters (M)", "trainable (M)", "activations (MiB)", "gradients (MiB)"]
    head += ["optimizer (MiB)", "forward (s)", "backward (s)", "step (s)", "prediction (s)"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for checkpointed in (False, True):
        networks, spent = times(feature_size, side, batch, repeats, checkpointed)
        rows = {}
        for kind, network in networks.items():
            state = state_mib(network)
            rows[kind] = [*sizes_of(network).values(), activation_mib(network, image, False)]
            rows[kind] += [state["gradients"], state["optimizer"], *spent[kind].values()]
            print(f"| {kind} | {'on' if checkpointed else 'off'} | {' | '.join(f'{v:.2f}' for v in rows[kind])} |")
        for kind in KINDS[1:]:
            ratios = [f"{ours / plain:.2f}" for ours, plain in zip(rows[kind], rows[PLAIN], strict=True)]
            print(
                f"| ratio of {kind} to MONAI's | {'on' if checkpointed else 'off'} | {' | '.join(ratios)} |", flush=True
            )


def estimate(feature_size: int, side: int, batch: int, autocast: bool) -> dict[tuple[str, bool], dict[str, float]]:
    """MiB by kind and checkpointing, on tensors without storage."""
    found = {}
    for checkpointed in (False, True):
        for kind in KINDS:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                network = make_fake(fake, kind, feature_size, checkpointed)
                kept = activation_mib(network, torch.empty(batch, 1, *[side] * 3), autocast)
            found[kind, checkpointed] = {"activations": kept, **state_mib(network)}
    return found


def make_fake(fake: FakeTensorMode, kind: str, feature_size: int, checkpointed: bool) -> nn.Module:
    """A network whose tensors have shapes only; MONAI reads numbers while it builds, so it is built first."""
    with torch.utils._python_dispatch._disable_current_modes():
        network = make(kind, feature_size, checkpointed)
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                kept = nn.Parameter(fake.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = kept
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = fake.from_tensor(buffer)
    return network


def peak_mib(kind: str, checkpointed: bool, feature_size: int, side: int, batch: int) -> float:
    """By how much a process of its own grows in a forward and backward pass, its gradients included."""
    argv = [sys.executable, __file__, "--peak-of", kind, str(int(checkpointed))]
    argv += ["--feature-size", str(feature_size), "--side", str(side), "--batch", str(batch)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feature-size", type=int, default=24)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = (args.feature_size, args.side, args.batch)
    if args.peak_of:
        network = make(args.peak_of[0], args.feature_size, bool(int(args.peak_of[1])))
        image = torch.randn(args.batch, 1, *[args.side] * 3)
        target = torch.zeros(args.batch, *[args.side] * 3, dtype=torch.long)
        print(peak_growth_kib(lambda: loss_of(network(image), target).backward()))
        return
    measure(*size, args.repeats)
    if args.estimate:
        for title, sizes, autocast in (
            (f"\nEstimate at the measured size, float32: {size}", size, False),
            ("\nEstimate at 96^3, batch 4, feature size 48, bfloat16 autocast", (48, 96, 4), True),
        ):
            print(
                f"{title}\n\n| network | checkpointing | activations | parameters | gradients | optimizer | sum (MiB) |"
            )
            print("|" + " --- |" * 7)
            for (kind, checkpointed), parts in estimate(*sizes, autocast).items():
                shown = " | ".join(f"{value:.0f}" for value in (*parts.values(), sum(parts.values())))
                print(f"| {kind} | {'on' if checkpointed else 'off'} | {shown} |", flush=True)
        for kind in KINDS:
            print(f"measured peak, {kind}, checkpointing off: {peak_mib(kind, False, *size):.0f} MiB", flush=True)
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"command: python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
