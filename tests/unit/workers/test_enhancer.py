"""The prompt enhancer: the prompt is kept whole, the result is reproducible, and a failure fails no job."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.domain.errors import ConfigurationError
from tests.farms import wait_for
from tests.unit.dialects.samples import a_request
from workers import enhancer as enhancers
from workers.enhancer import EnhancerFailed, Interrupted, LanguageModel, Template, enhanced, enhancer_for

pytestmark = pytest.mark.slow

PROMPTS = [
    "a fox",
    "A red fox.",
    "a fox, ",
    "wow!",
    " ",
    "ein Fuchs im Schnee, dünne Linien",
    "一只狐狸",
    "x" * 4000,
    "a close-up shot of a red fox at night, detailed, blurred background",
]


@pytest.mark.parametrize("model", ["srpo", "kontext", "kontext-multi", "kontext-text-to-image"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_template_keeps_the_callers_words_whole_and_in_front(prompt: str, model: str) -> None:
    text = Template().rewrite(prompt, model)

    assert text.startswith(prompt.rstrip(" ,"))
    assert text == Template().rewrite(prompt, model)


def test_the_template_adds_what_is_left_open() -> None:
    assert Template().rewrite("a fox", "srpo") == (
        "a fox, soft natural light, balanced composition, fine detail, harmonious colours, "
        "a clear subject against a calm background"
    )
    assert Template().rewrite("A red fox at night.", "srpo") == (
        "A red fox at night. Balanced composition, fine detail, a clear subject against a calm background."
    )


def test_the_template_says_nothing_against_what_was_said() -> None:
    result = "a close-up shot of a red fox at night, detailed, blurred background"

    assert Template().rewrite(result, "srpo") == result


def test_an_instruction_is_not_made_a_description() -> None:
    template = Template()

    text = template.rewrite("make the donut purple", "kontext")
    assert text.startswith("make the donut purple. Keep what is not mentioned")
    assert "light" not in text
    assert template.rewrite("make it purple and keep the rest", "kontext") == "make it purple and keep the rest"
    assert "one scene" in template.rewrite("put the duckling on the shirt", "kontext-multi")


def test_both_texts_are_kept() -> None:
    request = enhanced(a_request(prompt="a fox", enhance=True), Template())

    assert request.prompt.startswith("a fox, ")
    assert (request.original_prompt, request.enhance, request.notes) == ("a fox", False, ())


@pytest.mark.parametrize(("length", "is_left"), [(enhancers.MAX_LENGTH, False), (enhancers.MAX_LENGTH + 1, True)])
def test_a_long_prompt_is_left_as_it_is_with_a_warning(length: int, is_left: bool) -> None:
    request = enhanced(a_request(prompt="x" * length, enhance=True), Template())

    assert (request.prompt == "x" * length) is is_left
    assert bool(request.notes) is is_left
    assert len(request.prompt) < 2000


# A process that writes


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageModel]:
    """Yield an enhancer whose process is a program of the test's own, in `program.py`."""
    enhancer = LanguageModel(tmp_path, answer_seconds=2, load_seconds=20)
    monkeypatch.setattr(enhancer, "_program", [sys.executable, str(tmp_path / "program.py")])
    yield enhancer
    enhancer.close()


def write(folder: Path, answer: str, *, loads: str = "print('{}', flush=True)") -> None:
    """Write a program that answers each line with what `answer` makes of `question`, and records each start."""
    text = (
        "import json, sys, time, pathlib\n"
        f"with pathlib.Path({str(folder / 'starts')!r}).open('a') as starts: starts.write('.')\n"
        f"{loads}\n"
        "for line in sys.stdin:\n"
        "    question = json.loads(line)\n"
        f"    {answer}\n"
    )
    (folder / "program.py").write_text(text)


ECHO = (
    "print(json.dumps({'text': ' better ' + question['prompt'] + (' edit' if question['edits'] else '')}), flush=True)"
)


def test_the_process_is_started_once_and_gets_the_kind_of_each_prompt(program: LanguageModel, tmp_path: Path) -> None:
    write(tmp_path, ECHO)

    assert program.rewrite("a fox", "srpo") == "better a fox"
    assert program.rewrite("déjà\nvu", "kontext") == "better déjà\nvu edit"
    assert (tmp_path / "starts").read_text() == "."


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("time.sleep(60)", "too long"),
        ("sys.exit(1)", "could not be used"),
        ("print(json.dumps({'text': ''}), flush=True)", "0 characters"),
        ("print(json.dumps({'text': 'x' * 4001}), flush=True)", "4001 characters"),
        ("print('nonsense', flush=True)", "could not be used"),
        ("print('[1]', flush=True)", "could not be used"),
    ],
)
def test_a_failed_enhancement_leaves_the_prompt_as_it_is(
    program: LanguageModel, tmp_path: Path, answer: str, why: str
) -> None:
    write(tmp_path, answer)

    request = enhanced(a_request(prompt="a fox", enhance=True), program)

    assert (request.prompt, request.original_prompt, request.enhance) == ("a fox", "a fox", False)
    (note,) = request.notes
    assert why in note


def test_after_a_failure_the_next_prompt_gets_a_process_of_its_own(program: LanguageModel, tmp_path: Path) -> None:
    write(tmp_path, "sys.exit(1) if question['prompt'] == 'poison' else " + ECHO)

    assert program.rewrite("a fox", "srpo") == "better a fox"
    with pytest.raises(EnhancerFailed):
        program.rewrite("poison", "srpo")
    assert program.rewrite("an owl", "srpo") == "better an owl"
    assert (tmp_path / "starts").read_text() == ".."


def test_a_late_answer_is_not_taken_for_the_next_one(program: LanguageModel, tmp_path: Path) -> None:
    write(tmp_path, "time.sleep(3 if question['prompt'] == 'slow' else 0); " + ECHO)

    with pytest.raises(EnhancerFailed, match="too long"):
        program.rewrite("slow", "srpo")
    assert program.rewrite("quick", "srpo") == "better quick"


def test_closing_interrupts_waiting_rewrites(program: LanguageModel, tmp_path: Path) -> None:
    write(tmp_path, f"open({str(tmp_path / 'asked')!r}, 'w'); time.sleep(60)")
    program._answer_seconds = 60
    found: list[BaseException] = []

    def ask() -> None:
        try:
            program.rewrite("a fox", "srpo")
        except Interrupted as error:
            found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for((tmp_path / "asked").exists)
    program.close()
    for thread in threads:
        thread.join(20)

    assert len(found) == 3
    assert program._process is None


def test_a_model_that_cannot_be_loaded_raises_enhancer_failed(program: LanguageModel, tmp_path: Path) -> None:
    write(tmp_path, ECHO, loads="sys.exit('no such weights')")

    with pytest.raises(EnhancerFailed, match="could not be used"):
        program.rewrite("a fox", "srpo")


def test_a_model_that_cannot_be_loaded_is_left_alone_for_a_while(
    program: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ECHO, loads="sys.exit('no such weights')")
    for _ in range(3):
        with pytest.raises(EnhancerFailed):
            program.rewrite("a fox", "srpo")
    assert (tmp_path / "starts").read_text() == "."

    write(tmp_path, ECHO)
    monkeypatch.setattr(program, "_load_after", 0)
    assert program.rewrite("a fox", "srpo") == "better a fox"


def test_many_at_once_get_each_their_own_answer(program: LanguageModel, tmp_path: Path) -> None:
    write(tmp_path, ECHO)
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = program.rewrite(f"fox {number}", "srpo")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == {number: f"better fox {number}" for number in range(8)}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert isinstance(enhancer_for(None), Template)
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        with pytest.raises(ConfigurationError, match=rf"FARM_ENHANCER_DIR=.* lacks {name}"):
            enhancer_for(tmp_path)
        (tmp_path / name).touch()
    assert isinstance(enhancer_for(tmp_path), LanguageModel)
