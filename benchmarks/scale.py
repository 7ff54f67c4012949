"""What a training step and a prediction cost with 1 to 128 tumour types, random weights, in one run.

    python benchmarks/scale.py -o OUT [--types 1 8 32 128] [--overlay demo] [--repeats 7]

nnU-Net's training step and sliding window as benchmarks/cost.py takes them. Prediction is measured with all types
selected and with one, as MASTPRO_TASKS selects it. "Plain" is nnU-Net's network of as many classes, same optimizer. The
numbers of types take turns, so that a drift of the machine is shared: times are medians, ratios medians over the turns
against the first number of types. Memory is the most that network and work add to the resident size of a process of its
own. Prints a Markdown table; writes scale.json and the curves, scale.png.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from cost import DATASET, FOLDERS, make_batch, make_predictor, make_trainer, peak_growth_kib, seconds

TRAINING, ALL, ONE, PLAIN = "training step", "prediction, all types", "prediction, one type", "plain nnU-Net: "
WORK = (TRAINING, ALL, ONE, f"{PLAIN}{TRAINING}", f"{PLAIN}prediction")


def make(overlay: str, number: int, kind: str = "mastpro"):
    """A trainer of `number` tumour types, each with a sentence of its own."""
    labels = tuple(f"tumor_{index}" for index in range(1, number + 1))
    prompts = {label: {"sentence": f"This is {label.replace('_', ' ')}.", "is_tumor": True} for label in labels}
    return make_trainer(kind, overlay, labels, prompts)


def select_one(trainer) -> None:
    """As prediction does it when MASTPRO_TASKS names one type."""
    from nnunetv2_mastpro.config import PredictionConfig
    from nnunetv2_mastpro.training.prediction import limit

    limit(trainer.network, PredictionConfig(tasks=("tumor_1",)), trainer.mastpro)


def time_turns(overlay: str, types: list[int], repeats: int) -> dict[str, list[list[float]]]:
    """Seconds per turn and number of types; the first turn warms up."""
    found = {}
    for what in WORK:
        actions = [make_action(overlay, number, what) for number in types]
        found[what] = [[seconds(action) for action in actions] for _ in range(repeats + 1)][1:]
    return found


def make_action(overlay: str, number: int, what: str):
    """A function that does `what` once, with a trainer of its own."""
    trainer = make(overlay, number, "plain" if what.startswith(PLAIN) else "mastpro")
    if what.removeprefix(PLAIN) == TRAINING:
        trainer.network.train()
        batch = make_batch(trainer)
        return lambda: trainer.train_step(batch)
    if what == ONE:
        select_one(trainer)
    return make_predictor(trainer)


def measure_memory(overlay: str, number: int, what: str) -> int:
    """KiB, in this process: network and work together, of training the optimizer too."""
    make(overlay, 2)  # imports and first-use buffers are not counted

    def work() -> None:
        action = make_action(overlay, number, what)
        for _ in range(3):  # then the optimizer's state is there
            action()

    return peak_growth_kib(work)


def memory_turns(overlay: str, types: list[int], what: str, repeats: int = 3) -> list[list[float]]:
    """MiB per turn and number of types, each in a process of its own."""

    def one(number: int) -> float:
        job = [sys.executable, __file__, "--memory-of", str(number), what, "--overlay", overlay]
        return int(subprocess.run(job, check=True, capture_output=True, text=True).stdout.splitlines()[-1]) / 1024

    return [[one(number) for number in types] for _ in range(repeats)]


def summarize(turns: list[list[float]]) -> tuple[list[float], list[float]]:
    """Median per number of types, and median ratio to the first."""
    columns = list(zip(*turns, strict=True))
    ratios = [median(turn[index] / turn[0] for turn in turns) for index in range(len(columns))]
    return [median(column) for column in columns], ratios


def draw(path: Path, types: list[int], found: dict[str, dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for what, values in found.items():
        axis.plot(types, values["ratio"], marker="o", label=what)
    axis.axhline(1.15, color="0.6", linestyle=":", label="15 % above one type")
    axis.set(xscale="log", xlabel="tumour types", ylabel=f"ratio to {types[0]} type", xticks=types, xticklabels=types)
    axis.minorticks_off()
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--types", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--overlay", default="demo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-of", nargs=2, metavar=("TYPES", "WHAT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of is None and args.output is None:
        parser.error("-o OUT is missing: where scale.json and scale.png go")
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            os.environ[name] = str(Path(folder, name))
        data = Path(folder, "nnUNet_preprocessed", DATASET, "nnUNetPlans_3d_fullres")
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()  # nnU-Net tells by the ending how cases are stored
        if args.memory_of is not None:
            print(measure_memory(args.overlay, int(args.memory_of[0]), args.memory_of[1]))
            return
        turns = time_turns(args.overlay, args.types, args.repeats)
        for what in WORK:
            turns[f"memory, {what}"] = memory_turns(args.overlay, args.types, what)
    found = {}
    for what, values in turns.items():
        middle, ratio = summarize(values)
        found[what] = {"unit": "MiB" if "memory" in what else "s", "median": middle, "ratio": ratio}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "scale.json").write_text(json.dumps({"types": args.types, "found": found}, indent=2))
    draw(args.output / "scale.png", args.types, found)
    print("| what | " + " | ".join(f"{number} types" for number in args.types) + " |")
    print("| --- " * (len(args.types) + 1) + "|")
    for what, values in found.items():
        cells = [
            f"{value:.3g} {values['unit']} ({ratio:.2f})"
            for value, ratio in zip(values["median"], values["ratio"], strict=True)
        ]
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
