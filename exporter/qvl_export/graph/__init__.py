"""Networks as onnxscript modules, which read specs, never a `model_type`, and leave engine ops to the target."""
