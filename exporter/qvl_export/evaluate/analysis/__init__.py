"""Statistics of paired records, and the verdicts that come of them."""
