"""The page for people: playground and queue view, as templates, ES modules and a style sheet."""
