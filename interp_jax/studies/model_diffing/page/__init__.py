"""Style, markup and scripts of the model-diffing report."""
