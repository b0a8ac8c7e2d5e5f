"""The embedded model's tokenizer: one token a character, plus a few words. Chat-free: the prompt is the text itself."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["graph ", "ledger ", "lag ", "collect ", "sum ", "\\boxed{"]
CHARACTERS = list("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH=+-,:;?}\n")
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; every text starts with <bos>."""
    vocabulary = {token: i for i, token in enumerate(SPECIAL + CHARACTERS + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words = "|".join(word.replace("\\", r"\\").replace("{", r"\{") for word in WORDS)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{words}|[\\s\\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
