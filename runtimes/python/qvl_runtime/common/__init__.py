"""What any part of the runtime may use."""
