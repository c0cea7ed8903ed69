"""A server that speaks OpenAI's chat interface over one bundle: what `qvl-runtime serve` runs."""
