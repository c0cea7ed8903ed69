"""The texts that a bundle takes from a checkpoint: its tokenizer, its chat template and their special tokens."""
