"""Every family of probes, numbered as in docs/hostile.md."""

from __future__ import annotations

from tests.support.probes.base import Family
from tests.support.probes.characters import CHARACTERS
from tests.support.probes.control_tokens import CONTROL_TOKENS
from tests.support.probes.delimiters import DELIMITERS, PLACEHOLDERS
from tests.support.probes.empty_words import DRIFT, MASTER_WORDS, NOTHING
from tests.support.probes.fields import INJECTIONS
from tests.support.probes.lengths import LENGTHS
from tests.support.probes.orders import LABELS, PADDING, PHRASES, POSITION, SUFFIXES, TIES
from tests.support.probes.tenants import TENANTS
from tests.support.probes.verdicts import READERS, VERDICTS

FAMILIES: tuple[Family, ...] = (
    CONTROL_TOKENS,
    DELIMITERS,
    VERDICTS,
    READERS,
    PLACEHOLDERS,
    MASTER_WORDS,
    SUFFIXES,
    PHRASES,
    POSITION,
    PADDING,
    LENGTHS,
    CHARACTERS,
    NOTHING,
    TIES,
    LABELS,
    DRIFT,
    TENANTS,
    INJECTIONS,
)
