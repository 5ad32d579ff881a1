"""Measurements of the running service: the commands behind every promised figure.

``python -m benchmarks NAME`` starts what it needs on this machine, prints a table and one JSON line, and leaves nothing
running. Without a name it measures throughput.
"""
