"""The paired study: both members of a pair through all stages, each turned into the other, compared in one report."""
