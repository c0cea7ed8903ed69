"""Statistics of paired records, and the verdicts derived from them."""
