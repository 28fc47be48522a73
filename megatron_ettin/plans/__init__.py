"""Plans: lists of stages as data, those that ship, and the runs that they become."""
