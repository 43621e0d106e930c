"""Processors: NanoAOD to features, in-stream scores, columns and histograms."""
