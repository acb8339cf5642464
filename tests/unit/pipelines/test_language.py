"""The language model of the enhancer: a tiny one, in the files of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.unit.dialects.samples import a_request
from workers.enhancer import LanguageModel, enhanced
from workers.pipelines.language import Rewriter

pytestmark = pytest.mark.slow

_END = "<|endoftext|>"
#: As chat models have one: who speaks, and what.
_CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def save_model(folder: Path, *, chat_template: str | None = None) -> Path:
    """Return a GPT-2 of one layer that knows bytes, with weights that prefer letters."""
    words = [_END, *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END)
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    model: Any = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=2, n_positions=1024, **ids)
    )
    with torch.no_grad():
        model.transformer.wte.weight[[words.index(character_tokens) for character_tokens in "abcdefghijklmnop"]] *= 40
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("chatting"), chat_template=_CHAT)


@pytest.fixture
def process(plain: Path) -> Iterator[LanguageModel]:
    enhancer = LanguageModel(plain)
    yield enhancer
    enhancer.close()


def test_a_model_that_does_not_chat_continues_the_prompt(plain: Path) -> None:
    text = Rewriter(plain).rewrite("a red fox", edits=False)

    assert text.startswith("a red fox")
    assert len(text) > len("a red fox")
    assert "\n" not in text


def test_a_chat_model_gets_instructions_for_the_prompt(chatting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewriter = Rewriter(chatting)
    heard: list[str] = []

    def write(tokens: Any) -> str:
        heard.append(rewriter._tokenizer.decode(tokens["input_ids"][0]))
        return ' "a better fox"\n'

    monkeypatch.setattr(rewriter, "_generated", write)

    assert rewriter.rewrite("a red fox", edits=False) == "a better fox"
    rewriter.rewrite("make it blue", edits=True)
    assert all(text.startswith("[system]") and text.endswith("[assistant] ") for text in heard)
    assert "text-to-image" in heard[0]
    assert "[user] a red fox" in heard[0]
    assert "edits images" in heard[1]


def test_the_answer_of_a_chat_model_is_the_prompt(chatting: Path) -> None:
    text = Rewriter(chatting).rewrite("a red fox", edits=False)

    assert text
    assert "a red fox" not in text


def test_the_same_words_become_the_same(plain: Path) -> None:
    first, second = Rewriter(plain), Rewriter(plain)
    torch.manual_seed(1)
    text = first.rewrite("a red fox", edits=False)
    torch.manual_seed(2)

    assert first.rewrite("an owl", edits=False) != text
    assert first.rewrite("a red fox", edits=False) == second.rewrite("a red fox", edits=False) == text


def test_the_model_writes_in_a_process_of_its_own(process: LanguageModel, plain: Path) -> None:
    request = enhanced(a_request(prompt="a red fox", enhance=True), process)

    assert request.notes == ()
    assert request.prompt == Rewriter(plain).rewrite("a red fox", edits=False).strip()
    assert request.original_prompt == "a red fox"


def test_weights_that_cannot_be_read_cost_the_enhancement_only(plain: Path, tmp_path: Path) -> None:
    for file in plain.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)
    enhancer = LanguageModel(tmp_path)

    request = enhanced(a_request(prompt="a red fox", enhance=True), enhancer)
    enhancer.close()

    assert request.prompt == "a red fox"
    assert "could not be used" in request.notes[0]
