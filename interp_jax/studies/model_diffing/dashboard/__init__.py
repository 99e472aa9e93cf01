"""A dictionary as a page that opens from disk: a table of its latents, and what each is."""
