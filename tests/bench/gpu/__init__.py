"""`make bench-gpu`: the farm's pipeline on a card, beside diffusers and beside what the card could do."""
