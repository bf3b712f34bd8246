"""Features and the conformer encoder, in Flax NNX."""
