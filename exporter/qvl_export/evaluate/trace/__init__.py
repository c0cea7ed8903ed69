"""Compares the residual streams of a reference and a bundle, stage by stage."""
