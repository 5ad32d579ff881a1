"""Wire models of the admin routes that change weights. Folders are named, never addressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.replies import JudgeVersionOut
from service.types import JudgeVersion

FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FolderName = Annotated[str, Field(pattern=FOLDER_NAME)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$")]
NewJudgeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WeightsRequest(_Request):
    """`checkpoint`: a folder below `weights.checkpoints`; left out only with the remote engine, whose servers have
    other weights already. `version`: what replies and queues call the weights; default: its manifest's, else made from
    its content."""

    checkpoint: FolderName | None = None
    version: Version | None = None


class AdapterRequest(_Request):
    """`name`: a folder below `weights.adapters`. The new judge is called `judge` (default: the adapter's name) and is
    what the folder's judge.json says, else like the checkpoint's judge `like` (default: the first)."""

    name: FolderName
    judge: NewJudgeName | None = None
    like: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ChangedReply(_Reply):
    """The judges that the change concerns, with the versions that stand in their replies and queues."""

    judges: list[JudgeVersionOut]

    @classmethod
    def of(cls, versions: Sequence[JudgeVersion]) -> ChangedReply:
        return cls(judges=[JudgeVersionOut.of(version) for version in versions])


class LastChange(_Reply):
    kind: Literal["weights", "adapter_added", "adapter_removed"]
    name: str
    outcome: Literal["applied", "refused", "rolled_back", "lost"]
    message: str
    seconds: float


class WeightsReply(_Reply):
    """`changing`: requests wait at this moment. `checkpoints` and `adapters` are the folders that can be named, `added`
    the adapters that were since the start."""

    engine: str
    checkpoint: str
    weight_version: str
    changing: bool
    judges: list[JudgeVersionOut]
    checkpoints: list[str]
    adapters: list[str]
    added: list[str]
    last: LastChange | None
