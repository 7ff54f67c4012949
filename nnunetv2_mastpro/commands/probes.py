"""What `mastpro doctor` asks of processes of their own: as nnU-Net starts, and nothing leaks between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

TRAINER = "nnUNetTrainerMASTPro"
PROBE_TIMEOUT_S = 180
SLOW = "it took too long"
MARK = "mastpro-doctor:"  # before the line that a probe answers with: libraries print lines of their own
PROBES = {
    "device": f"""
import torch, torchvision
mps = getattr(torch.backends, "mps", None)
kind = "cuda" if torch.cuda.is_available() else "mps" if mps is not None and mps.is_available() else "cpu"
print("{MARK}" + kind)
""",
    "trainer": f"""
import inspect
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
print("{MARK}" + inspect.getfile(recursive_find_trainer_class_by_name("{TRAINER}")))
""",
    "encoder": f"""
from nnunetv2_mastpro.prompts.encoder import embed
vectors = embed(["A sentence that neither ships with the package nor is cached."], *sys.argv[1:]).vectors
print("{MARK}" + str(vectors.shape[1]))
""",
}


def start(code: str, environ: Mapping[str, str], *arguments: str) -> subprocess.Popen:
    """Without the current folder on the path: console scripts do not have it either."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.pop(0)\n{code}", *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def answer(probe: subprocess.Popen) -> tuple[str | None, str]:
    """The marked line, or None and the last line of the error."""
    try:
        stdout, stderr = probe.communicate(timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, SLOW
    marked = [line.removeprefix(MARK) for line in stdout.splitlines() if line.startswith(MARK)]
    if probe.returncode == 0 and marked:
        return marked[-1], ""
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), f"exit status {probe.returncode}")
    return None, last.strip()
