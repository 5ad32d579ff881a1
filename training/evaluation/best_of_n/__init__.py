"""Best-of-n against a judge, and what an independent oracle says of it (`python -m training best-of-n`)."""
