"""Models answer an evaluation set, each in processes of its own; their answers are kept as records."""
