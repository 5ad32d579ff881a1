"""Training rows: one file per format, prompts worded by the judge families."""
