"""Networks as onnxscript modules; they read specs, never a `model_type`, and leave engine ops to the target."""
