"""The route that enhances a prompt before it is submitted: `POST /farm/v1/enhance`."""

from __future__ import annotations

import flask

from api.context import ApiContext
from api.http import query
from api.http.body import read_bytes
from farm.concurrency.slots import Slots
from farm.dialects.answers.native import EnhancedPrompt
from farm.dialects.fields import Input, Prompt, decode, parse
from farm.domain.errors import ConcurrencyLimitReached


class PromptToEnhance(Input):
    """A prompt, and the id of the model for which it is enhanced: an instruction about an image stays one."""

    model: str = "srpo"
    prompt: Prompt


def routes(context: ApiContext, slots: Slots) -> flask.Blueprint:
    """Build the route; each call holds one of `slots` while it waits."""
    blueprint = flask.Blueprint("enhance", __name__, url_prefix="/farm/v1")
    service, enhancements = context.service, context.farm.enhancements

    @blueprint.post("/enhance")
    def enhance() -> EnhancedPrompt:
        caller = context.authenticator.submitter()
        query.refuse_others()
        wanted = parse(PromptToEnhance, decode(read_bytes()))
        model = service.model(wanted.model)
        with slots.held(caller.id, refusal=ConcurrencyLimitReached("Too many prompts are being enhanced; try again.")):
            enhanced = enhancements.ask(
                wanted.prompt,
                model.name,
                caller=caller.id,
                limits=caller.limits,
                has_disconnected=caller.has_disconnected,
            )
        return {"prompt": enhanced.prompt, "original_prompt": wanted.prompt, "warnings": enhanced.warnings}

    return blueprint
