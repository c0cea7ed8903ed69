"""What the session of target `openvino` is made of."""
