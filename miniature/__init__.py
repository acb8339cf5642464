"""The making of the bundled miniature: a world of drawn shapes, and the small FLUX model that learns to render it.

For developers only: nothing here is part of the installed farm, and nothing of the farm imports it.
"""
