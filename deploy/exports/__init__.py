"""Hand-over of a finished search: pyhf workspace, combine datacard, UHI histograms, HEPData tables."""
