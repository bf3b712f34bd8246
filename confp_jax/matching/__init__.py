"""From fingerprints to ranked tracks and verdicts."""
