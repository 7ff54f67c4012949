"""How far a training is, by nnU-Net's own log."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_training_log(fold: Path, classes: Sequence[str] = ()) -> tuple[int, str]:
    """Epochs done by nnU-Net's newest log, and its last loss and pseudo-Dice; - for a class that was in no patch."""
    log = max(fold.glob("training_log_*.txt"), default=None)
    if log is None:
        return 0, ""
    text = log.read_text(encoding="utf-8", errors="replace")
    losses = re.findall(r"train_loss (\S+)", text)
    dice = re.findall(r"Pseudo dice \[(.*)\]", text)
    note = f"epochs, loss {losses[-1]}" if losses else "epochs"
    if dice:
        values = ["-" if value == "nan" else f"{float(value):.2f}" for value in _numbers(dice[-1])]
        if len(classes) == len(values):
            values = [f"{name} {value}" for name, value in zip(classes, values, strict=True)]
        note += ", pseudo-Dice " + " ".join(values)
    return text.count("Epoch time"), note


def _numbers(text: str) -> Iterator[str]:
    """nnU-Net writes np.float32(0.5) or 0.5."""
    return (match.group(1) for match in re.finditer(r"(nan|\d+\.?\d*(?:e-?\d+)?)(?=\)|,|$)", text))
