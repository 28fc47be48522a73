"""Parts of the GPU benchmark: its rows, their two sides, limits, checks and the file of results."""
