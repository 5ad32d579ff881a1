"""Family names as configuration and manifests write them."""

from __future__ import annotations

from service.errors import StartupError
from service.judging import gram, gram_r2, rm_r1, scalar
from service.judging.base import Family

FAMILIES: dict[str, dict[str, Family]] = {
    "gram": {"eval": gram.FAMILY},
    "gram_r2": {"release": gram_r2.FAMILY},
    "rm_r1": {"instruct": rm_r1.INSTRUCT, "reasoner": rm_r1.REASONER},
    "scalar": {"chat": scalar.FAMILY},
}


def get_family(name: str, template: str | None = None) -> Family:
    """The family's template by name; its first when none is named. Raises `StartupError` listing the choices."""
    templates = FAMILIES.get(name)
    if templates is None:
        raise StartupError(f"Unknown judge family {name!r}; choose one of {', '.join(FAMILIES)}.")
    if template is None:
        return next(iter(templates.values()))
    if template not in templates:
        raise StartupError(f"Judge family {name} has no template {template!r}; choose one of {', '.join(templates)}.")
    return templates[template]
