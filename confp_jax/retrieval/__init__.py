"""From audio to fingerprints to answers: embed, store, search, match."""
