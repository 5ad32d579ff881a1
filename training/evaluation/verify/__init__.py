"""A released judge, measured here and set beside what was published of it."""
