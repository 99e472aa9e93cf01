"""Style, markup and scripts of the page of aggregates."""
