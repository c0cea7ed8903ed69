"""A bundle's chat template and tokenizer, tried out before they are used."""
