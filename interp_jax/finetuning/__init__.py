"""Fine-tuning of networks: LoRA and all weights, on any stream of tokens."""
