"""The networks: one config, one decoder, weights in and out, tokenizers, chat templates.

Axis letters, everywhere: B batch, T tokens, S keys, L layers, H heads, K key-value heads,
D width, F MLP width, V vocabulary. Layers count from 0.
"""
