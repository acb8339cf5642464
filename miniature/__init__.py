"""How the bundled miniature is made: a world of drawn shapes, and the small FLUX model that learns to render it.

For developers only: nothing here is part of the installed farm, and nothing of the farm imports it.
"""
