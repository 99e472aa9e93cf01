"""Model diffing with crosscoders (arXiv 2504.02922): what fine-tuning added to a model."""
