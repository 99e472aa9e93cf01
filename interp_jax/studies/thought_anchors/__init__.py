"""Thought anchors (arXiv 2506.19143): which sentences of a reasoning mattered."""
