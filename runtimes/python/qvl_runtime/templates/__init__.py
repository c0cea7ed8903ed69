"""A bundle's chat template and tokenizer, vetted before they are used."""
