"""Conversations in a row: what the user asked last, what the LLM replied, and the marks around its thoughts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kv_gym.errors import ProblemFileError

USER = ("user", "human")
ASSISTANT = ("assistant", "gpt", "model", "bot")
OTHERS = ("system", "developer", "tool", "function", "function_call", "observation")  # neither asks nor reasons
THOUGHTS = ("reasoning_content", "reasoning")  # beside the content of a turn

MARK = re.compile(r"</?think>|<\|(?:begin|end)_of_(?:thought|solution)\|>")


def has_marks(text: str) -> bool:
    """Whether a text says where a thought begins or ends."""
    return MARK.search(text) is not None


def without_marks(text: str) -> str:
    """A text without the marks around its thought and solution, which mean something to another LLM only."""
    return "\n\n".join(part for piece in MARK.split(text) if (part := piece.strip()))


def last_exchange(value: Any, column: str) -> tuple[str, str]:
    """The last turn of the user in a conversation, and the reply to it, "" where there is none.

    Args:
        value: Turns as `role` and `content` or as `from` and `value`, or the JSON text of them. Content is text, or a
            list of parts that are text.
        column: What it is called, for messages.

    Raises:
        ProblemFileError: It is something else, or nobody asks.
    """
    asked, replied = "", ""
    for turn in _turns(value, column):
        role, text = _role(turn, column), _content(turn, column)
        if role in USER:
            asked, replied = text, ""
        elif role in ASSISTANT:
            replied = replied or _reply(turn, text, column)
    if not asked.strip():
        raise ProblemFileError(f"{column} has no turn of the user ({' or '.join(USER)}). Give it one.")
    return asked, replied


def reply(value: Any, column: str) -> str:
    """The first turn of the LLM in a list of turns; "" where there is none.

    Raises:
        ProblemFileError: It is no list of turns.
    """
    turns = (turn for turn in _turns(value, column) if _role(turn, column) in ASSISTANT)
    return next((_reply(turn, _content(turn, column), column) for turn in turns), "")


def _turns(value: Any, column: str) -> list[Mapping[str, Any]]:
    if isinstance(value, str):  # as .csv holds it
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ProblemFileError(f"{column} is text, not a list of turns. Write role and content of each.") from error
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise ProblemFileError(
            f"{column} is not a list of turns. A turn is an object with role and content, or from and value."
        )
    return value


def _role(turn: Mapping[str, Any], column: str) -> str:
    role = turn.get("role", turn.get("from"))
    role = role.lower() if isinstance(role, str) else role
    if role not in (*USER, *ASSISTANT, *OTHERS):
        known = ", ".join((*USER, *ASSISTANT, *OTHERS))
        raise ProblemFileError(f"{column} has a turn of {str(role)[:40]!r}. Known roles: {known}.")
    return str(role)


def _content(turn: Mapping[str, Any], column: str) -> str:
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "\n".join(_part(part, column) for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ProblemFileError(f"{column} has a turn whose content is not text. Give text, or parts that are text.")
    return content


def _part(part: Any, column: str) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        kind = repr(part.get("type"))[:40] if isinstance(part, dict) else type(part).__name__
        raise ProblemFileError(f"{column} has a turn with a part that is not text ({kind}). Only text can be asked.")
    return text


def _reply(turn: Mapping[str, Any], text: str, column: str) -> str:
    """What the LLM wrote in a turn: its thought, where that stands beside the content, and the content."""
    thought = next((turn[name] for name in THOUGHTS if turn.get(name)), "")
    if not isinstance(thought, str):
        raise ProblemFileError(f"{column} has a turn whose thought is not text. Give text.")
    return f"<think>{thought}</think>{text}" if thought else text
