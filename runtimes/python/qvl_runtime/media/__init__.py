"""Images and videos from the outside world, as RGB."""
