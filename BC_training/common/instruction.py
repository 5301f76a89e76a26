"""Instructions in plain words, as the tokens that a model reads."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from BC_training.common.types import Section
from gameplay_pipeline.plumbing.errors import UserError

VOCABULARY = 512
"""Tokens at most: the 256 bytes, padding, and pairs that the training split repeats."""

PADDING = "[PAD]"


class Instructions(Section):
    """A byte-pair tokenizer fitted on the training split's instructions (Sennrich et al. 2016,
    "Neural machine translation of rare words with subword units"); part of every checkpoint."""

    tokenizer: str
    """As the tokenizers library writes it, JSON."""
    known: tuple[str, ...]
    """Instructions of the training split, the commonest first."""
    length: int
    """L: tokens that an instruction may have."""

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self.tokenizer)

    @property
    def size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> Int[np.ndarray, "L"]:
        """Tokens, padded with 0.

        Raises:
            UserError: there are none, or too many of them.
        """
        ids = self._tokenizer.encode(text.strip()).ids
        if not ids:
            raise UserError("the instruction is empty")
        if len(ids) > self.length:
            raise UserError(
                f"the instruction {text!r} has {len(ids)} tokens, but the model reads "
                f"{self.length}: shorten it, or raise model.instruction_length and train again"
            )
        return np.array(ids + [0] * (self.length - len(ids)), np.int32)


def fit(texts: Sequence[str], length: int) -> Instructions:
    """Fits a tokenizer.

    Args:
        texts: the instruction of each training episode.
        length: tokens that an instruction may have.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PADDING],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    counted = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    return Instructions(
        tokenizer=tokenizer.to_str(), known=tuple(text for text, _ in counted), length=length
    )
