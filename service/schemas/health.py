"""Score health as it goes out; `service.score_health` defines each figure. Null: there is no data for it yet."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.replies import QueueStateOut


class _Health(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class PositionBiasOut(_Health):
    """Mean log-odds, in nats, of whichever response is shown first. 0: no bias; positive: the first place is liked."""

    mean: float | None
    stderr: float | None


class FlipRateOut(_Health):
    """Share of comparisons whose two display orders disagree, with its 95 % Wilson interval."""

    value: float | None
    low: float | None
    high: float | None


class LabelMassOut(_Health):
    """p(A) + p(B) over the whole vocabulary, the smaller order of each comparison."""

    mean: float | None
    min: float | None


class FlaggedOut(_Health):
    """Share of rows with at least one flag, and with each flag that occurred."""

    share: float | None
    by_code: dict[str, float]


class LengthSlopeOut(_Health):
    """Nats of margin (a scalar judge: score) for each factor e of length in characters. Positive: longer wins."""

    value: float | None
    stderr: float | None


class DriftOut(_Health):
    """The present window against the epoch's first full one: stability index and Kolmogorov-Smirnov distance, null
    while either holds fewer than 20 scores. Shared by all replicas, as the window is."""

    psi: float | None
    ks: float | None
    p_value: float | None
    reference_count: int = Field(description="0 until the first window is full.")


class HealthOut(_Health):
    """What this replica's judge did lately for this queue. Drift alone is of the window, which replicas share."""

    position_bias: PositionBiasOut
    flip_rate: FlipRateOut
    label_mass: LabelMassOut
    flagged: FlaggedOut
    length_slope: LengthSlopeOut
    drift: DriftOut
    comparisons: int = Field(description="Recent judgments of this replica that the figures are made from.")

    @classmethod
    def of(cls, figures: dict[str, Any], drift: dict[str, Any]) -> HealthOut:
        """From `JudgeHealth` and `Drift` as dictionaries, whose names are these."""
        return cls(**figures, drift=DriftOut(**drift))


class QueueHealthOut(QueueStateOut):
    """One reward window and the health of its scores."""

    health: HealthOut


class QueueReply(_Health):
    queues: list[QueueHealthOut]
