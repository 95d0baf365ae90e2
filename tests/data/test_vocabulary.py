import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prunella.data import sources
from prunella.data.vocabulary import SPECIAL_TOKENS, train_wordpiece
from prunella.errors import InputError

TEXT = (
    """The pruned model keeps the pattern of zeros. The pattern is kept by the mask.
Pruning, pruned, prunes; masking, masked, masks. Zeros stay zeros: 90 % of the weights.

Größe, naïve, café. Weights are trained while the others stay at zero, always.
"""
    * 3
)


@pytest.fixture
def text(tmp_path: Path) -> list[str]:
    (tmp_path / "a.txt").write_text(TEXT)
    return [str(tmp_path / "a.txt")]


def test_special_tokens_come_first_and_sizes_are_kept(text: list[str]) -> None:
    tokenizer = train_wordpiece(text, 120)
    assert tuple(tokenizer.convert_ids_to_tokens(list(range(5)))) == SPECIAL_TOKENS
    assert len(tokenizer) == 120
    assert sorted(tokenizer.get_vocab().values()) == list(range(120))
    assert tokenizer.cls_token_id == 2 and tokenizer.mask_token_id == 4
    assert len(tokenizer.all_special_tokens) == 5


def test_frequent_words_are_whole_and_others_are_pieced_together(text: list[str]) -> None:
    tokenizer = train_wordpiece(text, 200)
    assert tokenizer.tokenize("The PATTERN") == ["the", "pattern"]
    pieces = tokenizer.tokenize("zeropattern")
    assert "".join(piece.removeprefix("##") for piece in pieces) == "zeropattern"
    assert all(piece.startswith("##") for piece in pieces[1:])
    ids = tokenizer("the mask", "stay")["input_ids"]
    assert tokenizer.decode(ids) == "[CLS] the mask [SEP] stay [SEP]"


def test_lowercase(text: list[str]) -> None:
    assert "größe" not in train_wordpiece(text, 300, min_frequency=1).get_vocab()
    assert "grosse" not in train_wordpiece(text, 300, min_frequency=1).get_vocab()
    lower = train_wordpiece(text, 300, min_frequency=1)
    assert lower.tokenize("CAFÉ") == lower.tokenize("cafe")
    cased = train_wordpiece(text, 300, lowercase=False, min_frequency=1)
    assert "The" in cased.get_vocab() and "café" in cased.get_vocab()


def test_minimum_frequency(text: list[str]) -> None:
    assert len(train_wordpiece(text, 1000, min_frequency=1000)) < 120
    assert len(train_wordpiece(text, 1000, min_frequency=2)) > 120


def test_rare_characters_give_way_in_a_small_vocabulary(text: list[str]) -> None:
    tokenizer = train_wordpiece(text, 45)
    assert len(tokenizer) <= 45
    assert "e" in tokenizer.get_vocab() and "##e" in tokenizer.get_vocab()
    assert "%" not in tokenizer.get_vocab()
    assert tokenizer.tokenize("%") == ["[UNK]"]


def test_saved_tokenizer_is_the_same_after_loading(text: list[str], tmp_path: Path) -> None:
    tokenizer = train_wordpiece(text, 150)
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (
        loaded("Zeros kept", "masking")["input_ids"]
        == (tokenizer("Zeros kept", "masking")["input_ids"])
    )
    assert loaded.model_max_length == 512


def test_every_process_makes_the_same_bytes(text: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; from prunella.data.vocabulary import train_wordpiece; "
        "train_wordpiece(sys.argv[1:2], 150).save_pretrained(sys.argv[2])"
    )
    root = str(Path(sources.__file__).parents[2])
    folders = [tmp_path / "here", tmp_path / "there"]
    train_wordpiece(text, 150).save_pretrained(folders[0])
    subprocess.run(
        [sys.executable, "-c", script, *text, str(folders[1])],
        env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "77"},
        check=True,
    )
    digests = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
        for folder in folders
    ]
    assert "tokenizer.json" in digests[0]
    assert digests[0] == digests[1]


def test_bad_input(text: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size is 5"):
        train_wordpiece(text, 5)
    (tmp_path / "odd.txt").write_text("\u200b\n")
    with pytest.raises(InputError, match="no character"):
        train_wordpiece([str(tmp_path / "odd.txt")], 100)
