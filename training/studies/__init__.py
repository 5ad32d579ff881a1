"""Claims of the GRAM paper, tested again where a model trains in a minute and the truth is known."""
