"""Claims of GRAM-R2 and RM-R1 (arXiv 2509.02492, 2505.02387), re-tested where every rationale can be checked."""
