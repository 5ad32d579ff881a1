"""Texts, likelihoods and judgments in bulk, through the project's own engines; whatever is interrupted goes on."""
