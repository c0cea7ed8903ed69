"""Seeded generator of document pages with ground truth: text, fields, boxes and tables beside each image."""
