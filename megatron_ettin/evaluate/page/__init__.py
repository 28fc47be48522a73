"""Results as one HTML file: tables, plots and intervals, and below them the JSON that each number links to."""
