"""Operations of `/farm/v1/keys`."""

from __future__ import annotations

from api.openapi.native import PREFIX, errors
from api.openapi.operation import GUARDED, Body, Operation, Parameter, Response, Section
from api.routes.keys import WantedKey
from farm.dialects.answers import native as answers

SECTION = Section(
    name="Keys",
    description="API keys, for admins. Limits are counted by name: two keys with one name are one caller.",
    operations=(
        Operation(
            "get",
            f"{PREFIX}/keys",
            "listKeys",
            "List the valid API keys",
            responses={200: Response("The valid keys.", answers.ApiKeys), **errors(*GUARDED, 422)},
        ),
        Operation(
            "post",
            f"{PREFIX}/keys",
            "createKey",
            "Create an API key",
            body=Body(WantedKey, {"name": "ada", "rate": 60}),
            responses={201: Response("The key is valid from now on.", answers.NewApiKey), **errors(*GUARDED, 413, 422)},
        ),
        Operation(
            "delete",
            f"{PREFIX}/keys",
            "revokeKey",
            "Revoke the keys of a name, or the key with an id, at once",
            parameters=(Parameter("name", "A key's name or id.", is_required=True),),
            responses={
                200: Response("The keys are invalid from now on.", answers.RevokedKeys),
                **errors(*GUARDED, 404, 422),
            },
        ),
    ),
)
