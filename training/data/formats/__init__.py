"""Row formats of public preference data: one file each, with an invented example row at its top."""
