"""From files and samples to fingerprints."""
