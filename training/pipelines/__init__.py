"""Whole methods in one command, at a size that two cores carry in minutes: what a first run on real data looks like."""
