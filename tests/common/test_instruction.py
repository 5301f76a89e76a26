"""Instructions: tokens that a checkpoint keeps, and what is refused."""

import numpy as np
import pytest

from BC_training.common import instruction
from gameplay_pipeline.plumbing.errors import UserError

TEXTS = ("attack whenever you can", "stay back and dodge", "attack whenever you can")


def test_a_saved_tokenizer_reads_alike_whatever_the_case():
    fitted = instruction.fit(TEXTS, 24)
    saved = type(fitted).model_validate_json(fitted.model_dump_json())
    for text in (*TEXTS, "never heard: dödge!"):
        assert np.array_equal(fitted.encode(text), saved.encode(text.upper().lower()))
    assert fitted.known == (TEXTS[0], TEXTS[1])
    assert instruction.fit(TEXTS[::-1], 24).tokenizer == fitted.tokenizer


def test_what_is_known_takes_few_tokens_and_padding_is_zero():
    fitted = instruction.fit(TEXTS, 12)
    tokens = fitted.encode("attack whenever you can")
    count = int((tokens > 0).sum())
    assert count <= 6
    assert not tokens[count:].any()
    assert tokens.max() < fitted.size
    assert not np.array_equal(tokens, fitted.encode("stay back and dodge"))


def test_none_and_too_many_are_refused():
    fitted = instruction.fit(TEXTS, 4)
    with pytest.raises(UserError, match=r"'quick brown fox'.*tokens, but the model reads 4"):
        fitted.encode("quick brown fox")
    with pytest.raises(UserError, match="empty"):
        fitted.encode("  ")
