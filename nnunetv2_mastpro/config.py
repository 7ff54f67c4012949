"""The "mastpro" block of nnU-Net's plans as frozen dataclasses. Standard library only.

    "mastpro": {"network": {...}, "prompts": {...}, "training": {...}, "prediction": {...}, "resolved": {...}}

The first four are for users, every key optional. "resolved" is written when training starts and, beside a
checkpoint, rebuilds the network.
"""

import dataclasses
from dataclasses import dataclass, field

from nnunetv2_mastpro.blocks import check_keys, plain, read_section
from nnunetv2_mastpro.errors import MASTProError

MAX_MARGIN_MM = 1000  # more than a scan
EPOCH_VARIANTS = (1, 5, 10, 50, 100, 250)  # of which trainers have variants
ABLATIONS = ("text", "anatomy", "experts", "text_shuffled")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the parts that are put into the planned network. k1, k2, k, r of the paper in brackets."""

    generic_experts: int = 4  # [k2] shared by all tumour types
    specific_experts: int = 2  # [k1] owned by each tumour type
    top_k_generic: int = 2  # [k] kept of the generic experts
    top_k_specific: int = 1  # [k] kept of the experts of the allowed tumour types
    rank: int = 8  # [r]
    backbone_rank: int = 0  # of updates of the backbone's weights that PEFT trains besides; 0: none, as in the paper
    routing: str = "sample"  # "token": each voxel chooses; "sample": each patch chooses
    router: str = "split"  # "split": R^t weighs its own experts; "joint": the generic ones too
    encoder_stages: tuple[int, ...] | None = None  # None: from the second on
    decoder_stages: tuple[int, ...] | None = None  # None: all below full resolution; 0 is the coarsest
    attention_dim: int = 128
    attention_heads: int = 4
    kernel_hidden: int = 128
    anatomy_encoder: str = "small"  # of organ masks, trained; "swin": pretrained and frozen, beside SwinUNETR
    anatomy_features: int = 16  # of the small one
    ablate: tuple[str, ...] = ()  # parts that are replaced: text, anatomy, experts, text_shuffled

    def __post_init__(self):
        self._check_ablations()
        for name in (
            "generic_experts",
            "top_k_generic",
            "rank",
            "attention_dim",
            "attention_heads",
            "kernel_hidden",
            "anatomy_features",
        ):
            _at_least(self, name, 1)
        for name in ("specific_experts", "top_k_specific", "backbone_rank"):
            _at_least(self, name, 0)
        if self.top_k_generic > self.generic_experts:
            raise MASTProError(
                f"top_k_generic={self.top_k_generic} exceeds generic_experts={self.generic_experts}; "
                "lower mastpro.network.top_k_generic in the plans"
            )
        _one_of(self, "routing", ("token", "sample"))
        _one_of(self, "router", ("split", "joint"))
        _one_of(self, "anatomy_encoder", ("small", "swin"))
        if self.router == "joint" and not self.specific_experts:
            raise MASTProError(
                "router='joint' is for types with experts of their own, but specific_experts=0; "
                "give router 'split' in mastpro.network of the plans"
            )
        if self.attention_dim % self.attention_heads:
            raise MASTProError(
                f"attention_dim={self.attention_dim} is not a multiple of attention_heads="
                f"{self.attention_heads}; change one of them in mastpro.network of the plans"
            )

    def _check_ablations(self) -> None:
        for name in self.ablate:
            if name not in ABLATIONS:
                raise MASTProError(
                    f"ablate names {name!r}, which is none of {', '.join(ABLATIONS)}; "
                    "correct mastpro.network.ablate in the plans"
                )
        if {"text", "text_shuffled"} <= {*self.ablate}:
            raise MASTProError(
                "ablate holds both 'text' and 'text_shuffled', but there is no text to shuffle without text; "
                "keep one of them in mastpro.network.ablate of the plans"
            )

    def without(self, ablations: tuple[str, ...]) -> "NetworkConfig":
        """With these ablations too, in one order, so that equal networks have equal blocks."""
        every = tuple(name for name in ABLATIONS if name in {*self.ablate, *ablations})
        return dataclasses.replace(self, ablate=every)

    @property
    def fixed_head(self) -> bool:
        """Whether no prompt is left, so that the planned network's own output layers are."""
        return {"text", "anatomy"} <= {*self.ablate}


@dataclass(frozen=True)
class PromptConfig:
    """Where sentence embeddings come from (Eq. 1): a sentence-transformers name or a local folder."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    added: tuple[str, ...] = ()  # types appended to a trained model: see network/updates.py


@dataclass(frozen=True)
class TrainingConfig:
    """Learning rates, weights of the terms beside nnU-Net's loss, draws of cases, patches, masks, tumour types."""

    mode: str = "auto"  # "full": train everything; "peft": the backbone stays; "auto": PEFT on a trained backbone
    learning_rate: float = 3e-3  # where everything is trained
    peft_learning_rate: float = 5e-5  # the paper's
    new_types: tuple[str, ...] = ()  # if any, only what these own is trained, on top of a trained model
    added_learning_rate: float = 1e-2  # for that
    prompt_share: float = 0.1  # of the rate for fusion and mask proposal, whose wide inputs make their steps long
    balance_weight: float = 0.01  # load balance of the routers
    presence_weight: float = 0.1  # category supervision, Sec. 2.2
    anatomy_dropout: float = 0.2  # share of samples whose organ masks are all withheld
    host_task_share: float = 0.5  # of samples in which only types whose host organ is in the patch are selected
    annotated_task_share: float = 0.25  # of samples in which only annotated types are; in the rest all are
    sampling_temperature: float = 0.5  # 1 draws every case alike, 0 every tumour type
    foreground_share: float = 0.33  # of a batch that is centred on tumours, nnU-Net's; it rounds
    crop_margin_mm: float | None = None  # the other patches are centred on host organs, up to this far outside
    augmentation: str = "nnunet"  # "paper": rotations by 90 degrees and intensity shifts; "both"

    def __post_init__(self):
        _one_of(self, "mode", ("auto", "full", "peft"), "training")
        if self.new_types and self.mode == "full":
            raise MASTProError(
                "mode='full' would train more than the new types own; set mastpro.training.mode in the plans to 'auto'"
            )
        _one_of(self, "augmentation", ("nnunet", "paper", "both"), "training")
        if self.crop_margin_mm is not None and not 0 <= self.crop_margin_mm <= MAX_MARGIN_MM:
            raise MASTProError(
                f"crop_margin_mm={self.crop_margin_mm} is not within 0 and {MAX_MARGIN_MM}; correct "
                "mastpro.training.crop_margin_mm in the plans"
            )
        for name in ("learning_rate", "peft_learning_rate", "added_learning_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise MASTProError(
                    f"{name}={getattr(self, name)} is not within 0 and 1; correct mastpro.training.{name} in the plans"
                )
        for name in ("prompt_share", "balance_weight", "presence_weight"):
            _at_least(self, name, 0)
        for name in (
            "anatomy_dropout",
            "host_task_share",
            "annotated_task_share",
            "sampling_temperature",
            "foreground_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise MASTProError(
                    f"{name}={getattr(self, name)} is not a share from 0 to 1; "
                    f"correct mastpro.training.{name} in the plans"
                )
        if self.host_task_share + self.annotated_task_share > 1:
            raise MASTProError(
                f"host_task_share={self.host_task_share} and annotated_task_share={self.annotated_task_share} are more "
                "than all samples together; lower one of them in mastpro.training of the plans"
            )


@dataclass(frozen=True)
class PredictionConfig:
    """What prediction leaves out. The environment's MASTPRO_SKIP_EMPTY and MASTPRO_TASKS win."""

    skip_empty: bool = False  # the network is not run on patches without any class's host organ
    tasks: tuple[str, ...] | None = None  # tumour types to look for; None: all


@dataclass(frozen=True)
class ClassSpec:
    """One output of the network: its label, its sentence, and whether it is a tumour type."""

    label: str
    sentence: str
    is_tumor: bool
    host_structures: tuple[str, ...] = ()
    added: bool = False  # appended to a trained model


@dataclass(frozen=True)
class HostValue:
    """One value of the host-organ maps: the structures that it stands for and the classes that they host."""

    value: int
    channel: int  # among the one-hot channels that nnU-Net makes of a map
    structures: tuple[str, ...]
    classes: tuple[int, ...]  # indices


@dataclass(frozen=True)
class Resolved:
    """What the data set made of the prompts; enough to rebuild the network without an encoder."""

    classes: tuple[ClassSpec, ...]
    embedding_dim: int
    has_background: bool  # softmax over classes and background; False for region-based data sets
    hosts: tuple[HostValue, ...] = ()  # empty without anatomy


@dataclass(frozen=True)
class MASTProConfig:
    """The whole block. Raises MASTProError for a key or a value that it does not know."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    resolved: Resolved | None = None

    @classmethod
    def from_dict(cls, block: dict) -> "MASTProConfig":
        check_keys(block, cls, "mastpro")
        resolved = block.get("resolved")
        return cls(
            network=read_section(NetworkConfig, block.get("network", {}), "mastpro.network"),
            prompts=read_section(PromptConfig, block.get("prompts", {}), "mastpro.prompts"),
            training=read_section(TrainingConfig, block.get("training", {}), "mastpro.training"),
            prediction=read_section(PredictionConfig, block.get("prediction", {}), "mastpro.prediction"),
            resolved=None if resolved is None else _resolved(resolved),
        )

    def to_dict(self) -> dict:
        """As JSON would hold it: tuples become lists."""
        return plain(dataclasses.asdict(self))


def _resolved(block: dict) -> Resolved:
    section = read_section(Resolved, block, "mastpro.resolved")
    classes = tuple(read_section(ClassSpec, entry, "mastpro.resolved.classes") for entry in block["classes"])
    hosts = tuple(read_section(HostValue, entry, "mastpro.resolved.hosts") for entry in block.get("hosts", ()))
    return dataclasses.replace(section, classes=classes, hosts=hosts)


def _at_least(config, name: str, low: float) -> None:
    if not getattr(config, name) >= low:  # nan too
        raise MASTProError(f"{name}={getattr(config, name)} is below {low}; raise it in the mastpro block of the plans")


def _one_of(config, name: str, allowed: tuple[str, ...], section: str = "network") -> None:
    if getattr(config, name) not in allowed:
        raise MASTProError(
            f"{name}={getattr(config, name)!r} is not one of {', '.join(allowed)}; "
            f"correct mastpro.{section}.{name} in the plans"
        )
