"""Requests of OpenAI's chat interface: their fields, tools and media, as `serve` and `read` take them."""
