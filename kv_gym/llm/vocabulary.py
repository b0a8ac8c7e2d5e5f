"""Read a model's tokenizer, and refuse one that belongs to another model."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.prompts import check_template, control_ids
from kv_gym.llm.source import Source, foreign, quiet

logger = logging.getLogger(__name__)
SAMPLE = "0 1 2 3 4 5 6 7 8 9 a b c x y z A B C X Y Z"


def read_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Read the tokenizer and its chat template.

    Raises:
        UnsupportedModelError: It is missing or damaged.
    """
    remedy = "Put the files of its own tokenizer (tokenizer.json) beside the weights."
    with foreign(source.name, "its tokenizer", remedy), quiet():
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
        known = set(tokenizer(SAMPLE, add_special_tokens=False).input_ids) - set(tokenizer.all_special_ids)
    if not known:  # some transformers make an empty one where the files are missing
        raise UnsupportedModelError(
            f"model {source.name!r}: its tokenizer knows none of the letters and digits {SAMPLE!r}. {remedy}"
        )
    if tokenizer.chat_template == "":  # a GGUF file without one gives an empty text
        tokenizer.chat_template = None
    check_template(tokenizer, source.name)
    return tokenizer


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for, and stop tokens that are no numbers.

    Stop tokens that the model does not know are told and change nothing: it never writes them.

    Raises:
        UnsupportedModelError: Says which.
    """
    size = int(model.config.get_text_config().vocab_size)
    control = control_ids(
        tokenizer
    )  # transformers adds some that no text has; `encode_prompt` refuses prompts with them
    text = ((token, place) for token, place in tokenizer.get_vocab().items() if place not in control)
    token, largest = max(text, key=lambda entry: entry[1])
    if largest >= size:
        raise UnsupportedModelError(
            f"model {name!r}: its tokenizer has token {largest} ({token[:50]!r}), and the model knows 0 to {size - 1}. "
            "Take the tokenizer that belongs to these weights."
        )
    stop = model.generation_config.eos_token_id if model.generation_config else None
    stops = list(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else [] if stop is None else [stop]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in stops):
        raise UnsupportedModelError(
            f"model {name!r}: eos_token_id={str(stop)[:100]} in its generation_config.json is no whole number or list "
            "of them. Mend the file: it names the tokens that end a text."
        )
    unknown = [one for one in stops if not 0 <= int(one) < size]
    if unknown:
        logger.warning(
            "model %r: eos_token_id=%s in its generation_config.json: the model knows 0 to %d, %s never ends a text.",
            name, str(stop)[:100], size - 1, str(unknown)[:100],
        )  # fmt: skip
