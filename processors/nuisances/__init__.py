"""Systematic nuisances: named, continuous in units of their standard deviation, functions of columns and nu alone."""
