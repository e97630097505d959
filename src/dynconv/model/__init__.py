"""ModelConfig -> the network of the specification, which maps images to logits."""
