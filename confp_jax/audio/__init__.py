"""Decoding, window arithmetic and mel power in numpy: no JAX here."""
