"""What the two TensorRT sessions share."""
