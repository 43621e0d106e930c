"""Analysis: spectra, fits, the bump hunt, rates, metrics, plots and the report."""
