"""Samples: events that ship, and the generator that makes more."""
