"""How a question becomes token ids: chat templates, their settings, and control tokens that are only text."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from jinja2 import Template, meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from kv_gym.config import EnvConfig
from kv_gym.errors import ConfigError, UnsupportedModelError, half_character
from kv_gym.llm.source import brief

QUESTION = "kv-gym's question"  # stands for a question, to see where a template puts it
SYSTEM = "kv-gym's system prompt"  # stands for a system prompt, to see whether a template has a place for it
TODAY = date(2024, 7, 26)
"""What templates are told that today is (Llama's own default): the same question is the same prompt tomorrow."""


@dataclass(frozen=True)
class Chat:
    """How a question is put to a chat model.

    Attributes:
        system_prompt: A turn before the question; "" for none of ours (the template may have its own).
        template_kwargs: What the chat template is told besides, JSON values by name.

    Raises:
        ConfigError: A name or value is no JSON, or a text has half a character.
    """

    system_prompt: str = ""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        odd = [name for name in self.template_kwargs if not isinstance(name, str)]
        if odd:
            raise ConfigError(f"chat_template_kwargs has the name {odd[0]!r:.100}, which is no text. Names are texts.")
        try:
            told = json.dumps(dict(self.template_kwargs), ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"chat_template_kwargs are no JSON values ({error!s:.200}). Give texts, numbers."
            ) from error
        check_whole(self.system_prompt, "system_prompt")
        check_whole(told, "chat_template_kwargs")

    @classmethod
    def of(cls, config: EnvConfig) -> Chat:
        """What an environment's settings ask for."""
        return cls(config.system_prompt, config.chat_template_kwargs)

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.system_prompt or self.template_kwargs)

    def __str__(self) -> str:
        return (
            f"system_prompt={self.system_prompt[:50]!r}, chat_template_kwargs={json.dumps(self.template_kwargs)[:200]}"
        )

    @property
    def parts(self) -> list[Any]:
        """Everything that decides a prompt, as JSON values."""
        return [self.system_prompt, dict(self.template_kwargs)]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, chat: Chat) -> list[int]:
    """Token ids of a question: as the user's turn in the chat template, where there is one.

    What is the name of a special token in the question, such as ``<|im_end|>``, is read as text. Without such names the
    ids are those of transformers' `apply_chat_template`.

    Raises:
        ConfigError: `chat` asks for what the template does not have; the template fails, or leaves out the question or
            the system prompt; or a text has half a character.
    """
    check_whole(text, "a question")
    if tokenizer.chat_template is None:
        if chat:
            raise ConfigError(f"{chat}: the model has no chat template. Leave them out, or say it in `instruction`.")
        return list(tokenizer(text, split_special_tokens=True).input_ids)
    prompt, marked = render(tokenizer, text, chat), render(tokenizer, QUESTION, chat)
    _check_asked(tokenizer, text, prompt, marked, chat)
    if not tokenizer.is_fast:  # it does not say where in the text a token is
        _refuse_control(tokenizer, text)
        return list(tokenizer(prompt, add_special_tokens=False).input_ids)
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    where = _place(prompt, marked)
    if where is None:
        _refuse_control(tokenizer, text)
        return list(encoded.input_ids)
    control, ids = control_ids(tokenizer), []
    for token, (start, stop) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        unknown = token == tokenizer.unk_token_id and prompt[start:stop].strip() != tokenizer.unk_token
        if token in control and not unknown and _is_inside(prompt, (start, stop), where):
            ids += encode_text(tokenizer, prompt[max(start, where[0]) : min(stop, where[1])])
        else:
            ids.append(token)
    return ids


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of somebody's text, in which names of special tokens are text.

    Raises:
        ConfigError: It has half a character.
    """
    check_whole(text, "a text")
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def check_whole(text: str, what: str) -> None:
    """Refuse a text with half of a surrogate pair, which no tokenizer reads.

    Raises:
        ConfigError: Says where.
    """
    if complaint := half_character(text):
        raise ConfigError(f"{what} {complaint}. Write the whole character.")


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that are no text. Added tokens that are not special, such as Qwen3's ``<think>``, are text."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return special | set(tokenizer.all_special_ids)


def render(tokenizer: PreTrainedTokenizerBase, text: str, chat: Chat) -> str:
    """The prompt of a question, with the chat template around it.

    Raises:
        ConfigError: The template does not read a setting, or fails.
    """
    _check_read(tokenizer, chat.template_kwargs)
    turns = [{"role": "system", "content": chat.system_prompt}] if chat.system_prompt else []
    turns.append({"role": "user", "content": text})
    options = {"add_generation_prompt": True, "tokenize": False, **chat.template_kwargs}
    try:
        with _same_day(tokenizer):
            return str(tokenizer.apply_chat_template(turns, **options))
    except Exception as error:  # a template is a program of somebody else's
        raise ConfigError(
            f"the model's chat template fails with {chat} ({brief(error)}). Change these settings, or mend it in "
            "chat_template.jinja."
        ) from error


def check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a chat template that is no Jinja.

    Raises:
        UnsupportedModelError: Says where.
    """
    if tokenizer.chat_template is not None:
        try:
            template_variables(tokenizer)
        except Exception as error:
            raise UnsupportedModelError(
                f"model {name!r}: its chat template cannot be read ({brief(error)}). Mend it in chat_template.jinja or "
                "tokenizer_config.json, or delete it to have prompts read as they are."
            ) from error


def template_variables(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Names that the chat template reads and that settings may give, such as `enable_thinking`."""
    environment = _compiled(tokenizer).environment
    read = meta.find_undeclared_variables(environment.parse(tokenizer.get_chat_template(None, None)))
    ours = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters, *environment.globals}
    return read - ours


@contextlib.contextmanager
def _same_day(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Tell the chat template that it is `TODAY`; transformers passes no function on to it."""
    told = _compiled(tokenizer).environment.globals
    clock = told.get("strftime_now")
    told["strftime_now"] = TODAY.strftime
    try:
        yield
    finally:
        told["strftime_now"] = clock


def _compiled(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The chat template as transformers compiles it, and keeps it."""
    template: Template = _compile_jinja_template(tokenizer.get_chat_template(None, None))
    return template


def _check_read(tokenizer: PreTrainedTokenizerBase, given: Iterable[str]) -> None:
    """Refuse settings that the chat template does not read: they would change nothing.

    Raises:
        ConfigError: Names those that it reads.
    """
    unread = sorted(set(given) - template_variables(tokenizer)) if given else []
    if unread:
        read = ", ".join(sorted(template_variables(tokenizer))) or "none"
        raise ConfigError(
            f"chat_template_kwargs: the model's chat template does not read {', '.join(unread)[:200]}. It reads: "
            f"{read[:500]}."
        )


def _check_asked(tokenizer: PreTrainedTokenizerBase, text: str, prompt: str, marked: str, chat: Chat) -> None:
    """Refuse a chat template that loses what it is given: the model would answer something that nobody asked.

    Spaces at the edges may go, as in Llama's template. Texts that no template holds show whether there is a place.

    Args:
        tokenizer: Has the template.
        text: The question.
        prompt: Its prompt.
        marked: The prompt of `QUESTION`.
        chat: How both were put.

    Raises:
        ConfigError: The question is not there whole, or the system prompt is not there.
    """
    if QUESTION not in marked or text.strip() not in prompt:
        raise ConfigError(
            f"the model's chat template does not put the question into the prompt as it is: {QUESTION!r} becomes "
            f"{marked[:200]!r}. It must write the content of the turn of role 'user'; mend it in chat_template.jinja, "
            "or delete it to have prompts read as they are."
        )
    if chat.system_prompt and SYSTEM not in render(tokenizer, QUESTION, Chat(SYSTEM, chat.template_kwargs)):
        raise ConfigError(
            f"system_prompt={chat.system_prompt[:50]!r}: the model's chat template has no place for one, so it would "
            "not be read. Leave it out, or say it in `instruction`."
        )


def _place(prompt: str, marked: str) -> tuple[int, int] | None:
    """Where the question is in a prompt, by the prompt of `QUESTION`; None where that does not tell."""
    before, mark, after = marked.partition(QUESTION)
    found = mark and prompt.startswith(before) and prompt.endswith(after) and len(prompt) >= len(before) + len(after)
    return (len(before), len(prompt) - len(after)) if found else None


def _is_inside(prompt: str, token: tuple[int, int], question: tuple[int, int]) -> bool:
    """Whether a control token is the question's; spaces that it took from its neighbours do not count.

    Raises:
        ConfigError: It is made of the question's end and the template's text.
    """
    start, stop = token
    name = prompt[start:stop].strip()
    if not name:
        return False
    start = prompt.index(name, start)
    stop = start + len(name)
    if start >= question[1] or stop <= question[0]:
        return False
    if start < question[0] or stop > question[1]:
        raise ConfigError(
            f"a question and the chat template make the control token {name!r} together. Change its edge."
        )
    return True


def _refuse_control(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Refuse a question with control tokens where they cannot be told from the template's.

    Raises:
        ConfigError: Names them.
    """
    found = control_ids(tokenizer) & set(tokenizer(text, add_special_tokens=False).input_ids)
    found -= {tokenizer.unk_token_id}  # what it does not know
    if found:
        names = ", ".join(tokenizer.convert_ids_to_tokens(sorted(found)))
        raise ConfigError(
            f"a question holds the control tokens {names[:200]}, and this tokenizer cannot read them as text. Change "
            "the question, or use a model with a tokenizer.json."
        )
