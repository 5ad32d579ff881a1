"""Who may judge a benchmark: the running service, a checkpoint in this process, or a baseline that reads nothing."""
