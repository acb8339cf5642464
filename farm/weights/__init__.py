"""Real weights: their files, licences, and what they need of a card. Nothing here imports torch."""
