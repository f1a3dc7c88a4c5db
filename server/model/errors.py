"""Why a change of the model is refused; the API makes problem documents of these."""

from __future__ import annotations

from dataclasses import dataclass


class ModelError(Exception):
    """A change that can't be made; nothing was changed."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where: a path like `persons.mei.groups.0.group`."""

    path: str
    detail: str


class InvalidModel(ModelError):
    """What was put doesn't fit together with the rest."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__(f"{faults[0].path}: {faults[0].detail}")


class StillNamed(ModelError):
    """What was to be deleted is named by something else."""


class NotThere(ModelError):
    """There is no such object."""


class ChangedMeanwhile(ModelError):
    """The object, or the model, is not at the revision the caller has seen."""
