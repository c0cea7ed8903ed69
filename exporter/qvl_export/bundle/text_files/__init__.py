"""The texts that a bundle takes from a checkpoint: the tokenizer, the chat template and their special tokens."""
