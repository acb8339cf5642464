"""Networks that check images for unsafe content: the bundled one, and those with weights of their own."""
