"""Ray Serve lives in an environment of its own (`make test-ray`); its tests are collected where Ray is installed."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("ray") else ["ray"]
