"""`python -m workers.pipelines.language FOLDER`: a small causal language model that rewrites prompts, on the CPU.

Reads lines of JSON `{prompt, edits}` and answers each with `{text}`; the first line, `{}`, says that it is loaded.
It runs in a process of its own, which can be killed when it takes too long, and leaves the GPU memory to the images.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

#: Most tokens that a model adds. What the text encoder takes in all is 512.
_MAX_NEW_TOKENS = 160

_PROMPT_INSTRUCTIONS = (
    "You improve prompts for a text-to-image model. Keep the user's subject and every wish; add what is left open: "
    "composition, light, colours, setting. Answer with the improved prompt alone, in at most 80 words."
)
_EDIT_INSTRUCTIONS = (
    "You improve instructions for a model that edits images. Keep the user's meaning; say exactly what changes and "
    "that everything else stays as it is. Answer with the improved instruction alone, in at most 60 words."
)


class Rewriter:
    """A language model with its tokenizer. A chat model is instructed; any other one continues the prompt."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        self._model = model.eval()

    def rewrite(self, prompt: str, *, edits: bool) -> str:
        """Return the rewritten prompt, by greedy decoding: the same for the same prompt."""
        if self._tokenizer.chat_template:
            return self._generated(self._instructed(prompt, edits=edits)).strip().strip('"')
        return prompt + self._generated(self._tokenizer(prompt, return_tensors="pt")).partition("\n")[0].rstrip()

    def _instructed(self, prompt: str, *, edits: bool) -> Any:
        talk = [
            {"role": "system", "content": _EDIT_INSTRUCTIONS if edits else _PROMPT_INSTRUCTIONS},
            {"role": "user", "content": prompt},
        ]
        return self._tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True
        )

    def _generated(self, tokens: Any) -> str:
        with torch.inference_mode():
            output = self._model.generate(
                **tokens, do_sample=False, num_beams=1, max_new_tokens=_MAX_NEW_TOKENS, pad_token_id=self._pad
            )
        text: str = self._tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    @property
    def _pad(self) -> int | None:
        pad: int | None = self._tokenizer.pad_token_id
        return self._tokenizer.eos_token_id if pad is None else pad


def main(folder: Path) -> None:
    # Whatever a library prints goes to the log: the answers have the standard output for themselves.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    rewriter = Rewriter(folder)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps({"text": rewriter.rewrite(**question)}), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
