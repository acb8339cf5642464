"""The JSON objects that each dialect sends, one `TypedDict` for each.

The dialects' builders return them, so mypy refuses a missing or an unknown key, and a built answer is a plain dict. The
schemas in `/openapi.json` are pydantic's, of these same classes; a class's docstring is its description there.
"""
