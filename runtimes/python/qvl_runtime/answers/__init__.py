"""From logits to an answer: sampling, penalties, constraints, stop strings, and the stream."""
