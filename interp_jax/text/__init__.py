"""Text: sentences, answers, sentence embeddings."""
