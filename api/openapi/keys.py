"""`/farm/v1/keys`: API keys."""

from __future__ import annotations

from api.openapi.native import PREFIX, refusals
from api.openapi.operation import GUARDED, Answer, Body, Operation, Parameter, Section, Shape
from api.routes.keys import WantedKey


class ApiKeyFacts(Shape):
    """A valid key, without its secret. A limit that is null is the farm's own; 0: none."""

    id: str
    name: str
    admin: bool
    rate: int | None
    waiting: int | None
    images_per_day: int | None
    created_at: str


class ApiKeys(Shape):
    """The valid keys, by name."""

    keys: list[ApiKeyFacts]


class NewApiKey(Shape):
    """A new key, which is shown this once."""

    name: str
    key: str


class Revoked(Shape):
    """How many keys are valid no more."""

    revoked: int


SECTION = Section(
    name="Keys",
    about="API keys, for admins. Limits are counted by name: two keys of one name are one caller.",
    operations=(
        Operation(
            "get",
            f"{PREFIX}/keys",
            "listKeys",
            "The valid keys",
            answers={200: Answer("All of them.", ApiKeys), **refusals(*GUARDED, 422)},
        ),
        Operation(
            "post",
            f"{PREFIX}/keys",
            "createKey",
            "Make a key",
            body=Body(WantedKey, {"name": "ada", "rate": 60}),
            answers={201: Answer("It is valid.", NewApiKey), **refusals(*GUARDED, 413, 422)},
        ),
        Operation(
            "delete",
            f"{PREFIX}/keys",
            "revokeKey",
            "Make the keys of a name, or the key of an id, invalid at once",
            parameters=(Parameter("name", "A name, or an id.", is_required=True),),
            answers={200: Answer("They are invalid.", Revoked), **refusals(*GUARDED, 404, 422)},
        ),
    ),
)
