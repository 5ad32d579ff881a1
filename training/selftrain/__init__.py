"""GRAM-R2's self-training (arXiv 2509.02492): a judge labels pairs, a prover says why, the judge learns from both."""
