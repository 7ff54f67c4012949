"""Every command of docs/tutorial.md, run as it stands on a phantom."""

import os
import re
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"


def commands() -> str:
    """The shell blocks, one after the other."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.S | re.M))


@pytest.mark.slow
def test_the_commands_of_the_tutorial(tmp_path, workspace, run_command):
    (tmp_path / "tutorial.sh").write_text(f"set -euo pipefail\n{commands()}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = run_command(["/bin/bash", "tutorial.sh"], env={**workspace.env, "PATH": path}, cwd=tmp_path, timeout=1500)
    assert "This is a renal oncocytoma in the kidney, appearing as a round, homogeneous mass" in done.stdout
    assert len(list((tmp_path / "predictions").glob("*.nii.gz"))) == len(list((tmp_path / "unseen").iterdir())) == 2
    assert "oncocytoma" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for made in ("evaluation/evaluation.json", "comparison/comparison.png"):
        assert (tmp_path / made).stat().st_size > 0
