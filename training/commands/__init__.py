"""One file per command of ``python -m training``; heavy libraries are imported when a command runs."""
