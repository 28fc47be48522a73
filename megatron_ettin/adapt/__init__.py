"""Going on from a published model: what it is, the text for it, the run, the export at its end."""
