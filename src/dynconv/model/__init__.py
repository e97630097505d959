"""ModelConfig -> the network of the specification: images -> logits."""
