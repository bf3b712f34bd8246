"""Offline preparation: music, noise and rooms in; TFDS datasets of ArrayRecord shards out."""
