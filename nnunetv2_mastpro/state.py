"""What has been finished and begun of a demo, a recipe or a benchmark, in a file of its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically

if TYPE_CHECKING:
    from nnunetv2_mastpro.steps import Step

SHARING = ("-np", "-npfp", "-npp", "-nps", "-num_gpus", "-device")  # options that change no result


class State:
    """What has been finished in a demo's folder, in demo.json, or in that of another `kind` of run.

    Raises MASTProError for a folder of something else.
    """

    def __init__(self, folder: Path, settings: Mapping, kind: str = "demo"):
        self.path, self.settings, self.kind = folder / f"{kind}.json", dict(settings), kind
        self.steps: dict[str, dict] = {}  # finished
        self.begun: dict[str, list[str]] = {}  # name -> command
        if folder.exists() and not folder.is_dir():
            raise MASTProError(f"{folder} is a file, not a folder; give -o a new or empty folder, or an earlier {kind}")
        if self.path.is_file():
            self._read(folder)
        elif folder.is_dir() and any(folder.iterdir()):
            raise MASTProError(f"{folder} is not empty and holds no earlier {kind}; give -o a new or empty folder")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._write()

    def refresh(self) -> None:
        """What another run has finished since."""
        self._load()

    def _load(self) -> dict:
        """Steps, of the file; gives the settings in it."""
        saved = json.loads(self.path.read_text(encoding="utf-8"))
        self.steps, self.begun = saved["steps"], saved.get("begun", {})
        return saved["settings"]

    def _read(self, folder: Path) -> None:
        try:
            before = self._load()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MASTProError(
                f"{self.path} cannot be read as an earlier {self.kind}'s; give -o a new folder"
            ) from error
        changed = [
            f"{key}={before.get(key)!r} (now {value!r})"
            for key, value in self.settings.items()
            if before.get(key) != value
        ]
        if changed:
            raise MASTProError(
                f"{folder} holds a {self.kind} made with {', '.join(changed)}; give the same, or -o another folder"
            )

    def seconds(self, step: Step) -> float | None:
        """How long the step took when it was finished, None if it has to run."""
        record = self.steps.get(step.name)
        if record is None or not same_work(record["command"], step.command):
            return None
        if not all(path.exists() for path in step.outputs):
            return None
        return record["seconds"]

    def was_begun(self, step: Step) -> bool:
        """Whether it was begun with the same command, and not finished."""
        return step.name in self.begun and same_work(self.begun[step.name], step.command)

    def begin(self, step: Step) -> bool:
        """Remembers that the step is running; whether it had been begun before, and not finished."""
        before = self.was_begun(step)
        self.steps.pop(step.name, None)
        self.begun[step.name] = list(step.command)
        self._write()
        return before

    def finish(self, step: Step, seconds: float) -> None:
        self.begun.pop(step.name, None)
        self.steps[step.name] = {"title": step.title, "command": list(step.command), "seconds": round(seconds, 1)}
        self._write()

    def forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.steps.pop(name, None)
            self.begun.pop(name, None)
        self._write()

    def _write(self) -> None:
        content = json.dumps({"settings": self.settings, "steps": self.steps, "begun": self.begun}, indent=2)
        write_atomically({self.path: content.encode()})


def same_work(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two commands differ at most in how many processes or devices share the work."""

    def kept(command: Sequence[str]) -> list[str]:
        words, sharing = [], False
        for word in command:
            sharing = word in SHARING or (sharing and not word.startswith("-"))
            words += [] if sharing else [word]
        return words

    return kept(one) == kept(other)
