"""The safety check of a request that does not say whether it asks for one."""

from __future__ import annotations

from farm.client.http import HttpClient


def check_fields(http: HttpClient, model_id: str) -> dict[str, bool]:
    """Return the field that goes without a check, if this farm has no checker for the model; else none.

    A farm without a checker refuses requests that ask for a check, as they do by default. Raises CallFailed.
    """
    models = http.get("/models")["models"]
    is_unchecked = any(model["served"] and model["safety"] == "off" for model in models if model_id in model["ids"])
    return {"enable_safety_checker": False} if is_unchecked else {}
