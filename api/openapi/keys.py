"""`/farm/v1/keys`: API keys."""

from __future__ import annotations

from api.openapi.native import PREFIX, refusals
from api.openapi.operation import GUARDED, Answer, Body, Operation, Parameter, Section
from api.routes.keys import WantedKey
from farm.dialects.answers import native as answers

SECTION = Section(
    name="Keys",
    about="API keys, for admins. Limits are counted by name: two keys of one name are one caller.",
    operations=(
        Operation(
            "get",
            f"{PREFIX}/keys",
            "listKeys",
            "The valid keys",
            answers={200: Answer("All of them.", answers.ApiKeys), **refusals(*GUARDED, 422)},
        ),
        Operation(
            "post",
            f"{PREFIX}/keys",
            "createKey",
            "Make a key",
            body=Body(WantedKey, {"name": "ada", "rate": 60}),
            answers={201: Answer("It is valid.", answers.NewApiKey), **refusals(*GUARDED, 413, 422)},
        ),
        Operation(
            "delete",
            f"{PREFIX}/keys",
            "revokeKey",
            "Make the keys of a name, or the key of an id, invalid at once",
            parameters=(Parameter("name", "A name, or an id.", is_required=True),),
            answers={200: Answer("They are invalid.", answers.RevokedKeys), **refusals(*GUARDED, 404, 422)},
        ),
    ),
)
