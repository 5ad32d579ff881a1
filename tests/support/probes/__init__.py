"""Probes: what a policy or a client would try on the judge, each with what the service promises to do about it.

`families.FAMILIES` lists them all. Every text is of our own making, drawn from fixed seeds; docs/hostile.md says what
is promised exactly, what is only flagged, and what depends on the model.
"""
