"""The residual streams of a reference and of a bundle compared, stage by stage."""
