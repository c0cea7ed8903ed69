"""Models answer an evaluation set, each in a process of its own, and their records."""
