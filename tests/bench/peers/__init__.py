"""Other runtimes on the same page, shapes and machine: `make bench-peers`, see docs/peers.md."""
