"""Vocabularies: which are found, what their letters tell, and what transformers makes of them."""

from __future__ import annotations

import json

import pytest
from conftest import BERT, DATA
from transformers import AutoTokenizer

import tfreader
from tfreader.mapping import convert
from tfreader.mapping.families._tokenizers import has_accents, has_capitals

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLAIN = [f"word{i}" for i in range(40)]


def settings(folder):
    return json.loads((folder / "tokenizer_config.json").read_text())


def convert_with(folder, out, words, **options):
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in SPECIAL + words), "utf-8")
    report = convert(folder, out, **options)
    return settings(out), report


@pytest.mark.parametrize(
    ("words", "accents"),
    [
        (PLAIN, False),
        ([*PLAIN, "か", "テ", "日", "ø", "ß", "##ж"], False),
        ([*PLAIN, "が"], True),
        ([*PLAIN, "한"], True),
        ([*PLAIN, "café"], True),
        ([*PLAIN, "##ु"], True),  # a sign of Devanagari, which is a mark too
        ([f"w{i}" for i in range(5000)] + ["café", "naïve"], False),  # added by hand
        ([f"w{i}" for i in range(5000)] + ["é", "è", "ê", "ë", "á", "à"], True),
    ],
)
def test_accents_tell_that_no_text_was_stripped_of_them(words, accents):
    assert has_accents(words) is accents
    assert not has_capitals(words)


def test_hangul_that_was_composed_again_has_no_accents():
    assert has_accents(["한"]) and not has_accents(["한"], composed=True)
    assert has_accents(["が"], composed=True)


def test_a_vocabulary_without_capitals_keeps_its_accents(copy, tmp_path):
    words = ["が", "か", "パ", "##ン", "##ダ", "한", "##국", "##어", "a", "##b"]
    found, report = convert_with(copy(BERT), tmp_path / "out", words)
    assert found["do_lower_case"] is False
    assert any("many words with accents, which" in note for note in report.notes)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("が パンダ 한국어") == [
        "が",
        "パ",
        "##ン",
        "##ダ",
        "한",
        "##국",
        "##어",
    ]
    found, _ = convert_with(
        copy(DATA / "encoder"),
        tmp_path / "asked",
        words,
        overrides={"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
    )
    assert (found["do_lower_case"], found["strip_accents"]) == (True, False)
    assert found["tokenize_chinese_chars"] is False
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "asked")
    assert tokenizer.tokenize("が AB") == ["が", "a", "##b"]


def test_a_vocabulary_is_found_by_what_it_is(copy, tmp_path):
    folder = copy(BERT)
    (folder / "vocab.txt").rename(folder / "vocab_chinese.txt")
    (folder / "vocab_sizes.txt").write_text("64\n")
    report = convert(folder, tmp_path / "out")
    assert any("vocab_chinese.txt, the only one here" in note for note in report.notes)
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (BERT / "vocab.txt").read_bytes()
    (folder / "vocab_b.txt").write_text("\n".join(SPECIAL))
    report = convert(folder, tmp_path / "none")
    assert any("any of vocab_b.txt, vocab_chinese.txt could be it" in note for note in report.notes)
    assert not (tmp_path / "none" / "vocab.txt").exists()
    convert(folder, tmp_path / "named", vocab=folder / "vocab_b.txt")
    assert (tmp_path / "named" / "vocab.txt").read_text() == "\n".join(SPECIAL)
    convert(folder, tmp_path / "folder", vocab=BERT)
    assert (tmp_path / "folder" / "vocab.txt").read_bytes() == (BERT / "vocab.txt").read_bytes()
    report = convert(folder, tmp_path / "a.safetensors", vocab=folder / "vocab_b.txt")
    assert any("one file has no tokenizer" in note for note in report.notes)
    with pytest.raises(tfreader.ConfigError, match=r"not a vocabulary of .* has vocab\.txt"):
        convert(folder, tmp_path / "no", vocab=folder / "bert_config.json")
    with pytest.raises(tfreader.ConfigError, match="no such vocabulary"):
        convert(folder, tmp_path / "no", vocab=folder / "nothing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(tfreader.ConfigError, match=r"empty: no vocab\.txt in it"):
        convert(folder, tmp_path / "no", vocab=tmp_path / "empty")


def test_scores_behind_the_words_are_left_out(copy, tmp_path):
    folder = copy(DATA / "albert" / "pretraining")
    scored = "".join(f"{word}\t-{i}.5\n" for i, word in enumerate([*SPECIAL, "a", "b"]))
    (folder / "vocab_chinese.txt").write_text(scored)
    convert(folder, tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_text().split() == [*SPECIAL, "a", "b"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(["[CLS]", "b"]) == [2, 6]


def spiece(path, pieces):
    """A sentencepiece model, as far as its pieces go."""
    texts = [piece.encode() for piece in pieces]
    inner = [b"\x0a" + bytes([len(text)]) + text for text in texts]
    path.write_bytes(b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in inner))


@pytest.mark.parametrize(
    ("pieces", "lower", "keep"),
    [
        (["<unk>", *PLAIN], True, False),
        (["<unk>", *PLAIN, "The", "A", "B"], False, False),
        (["<unk>", *PLAIN, "が", "プ"], False, True),
        (["<unk>", *PLAIN, "한"], True, False),
    ],
)
def test_the_letters_of_pieces_tell_too(copy, tmp_path, pieces, lower, keep):
    folder = copy(DATA / "albert" / "pretraining")
    spiece(folder / "my.model", pieces)
    convert(folder, tmp_path / "out")
    found = settings(tmp_path / "out")
    assert (found["do_lower_case"], found["keep_accents"]) == (lower, keep)
    convert(folder, tmp_path / "told", overrides={"do_lower_case": not lower})
    assert settings(tmp_path / "told")["do_lower_case"] is not lower


def gpt2(folder, words, merges="#version: 0.2\n"):
    (folder / "encoder.json").write_text(json.dumps(words))
    (folder / "vocab.bpe").write_text(merges)


def test_the_end_of_a_text_is_where_the_vocabulary_has_it(copy, tmp_path):
    folder = copy(DATA / "gpt2")
    gpt2(folder, {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, "#version: 0.2\na b\n")
    report = convert(folder, tmp_path / "out")
    assert (report.plan.config["eos_token_id"], report.plan.config["bos_token_id"]) == (3, 3)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("ab") == ["ab"]
    report = convert(folder, tmp_path / "set", overrides={"eos_token_id": 7})
    assert report.plan.config["eos_token_id"] == 7
    assert any("has <|endoftext|> as 3, but eos_token_id = 7" in note for note in report.notes)


def test_a_vocabulary_of_another_model_gives_no_end_and_no_tokenizer_that_does_not_load(
    copy, tmp_path
):
    folder = copy(DATA / "gpt2")
    gpt2(folder, {"a": 0, "<|endoftext|>": 50256}, "#version: 0.2\na b\n")
    report = convert(folder, tmp_path / "out")
    assert report.plan.config["eos_token_id"] == 39  # the last row
    assert any("line 2 merges 'a b', but there is no 'b'" in note for note in report.notes)
    assert not (tmp_path / "out" / "vocab.json").exists()
    gpt2(folder, {"a": 0, "<|endoftext|>": 50256})
    report = convert(folder, tmp_path / "out")
    assert any("has ids up to 50256, the model only 40 rows" in note for note in report.notes)


@pytest.mark.parametrize("spelled", ["a b\r\n", "a\tb\n", " a  b \n\n"])
def test_merges_as_the_original_reads_them_become_merges_that_load(copy, tmp_path, spelled):
    folder = copy(DATA / "gpt2")
    gpt2(folder, {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})
    (folder / "vocab.bpe").write_bytes(b"#version: 0.2\n" + spelled.encode())
    convert(folder, tmp_path / "out")
    assert (tmp_path / "out" / "merges.txt").read_bytes() == b"#version: 0.2\na b\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("ab") == ["ab"]


@pytest.mark.parametrize(
    ("merges", "why"),
    [
        (b"a b c\n", "line 2 is no merge of two words: 'a b c'"),
        (b"ab\n", "line 2 is no merge of two words: 'ab'"),
        (b"\xff\n", "can't decode byte 0xff"),
    ],
)
def test_merges_that_nothing_loads_are_not_written(copy, tmp_path, merges, why):
    folder = copy(DATA / "gpt2")
    gpt2(folder, {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})
    (folder / "vocab.bpe").write_bytes(b"#version: 0.2\n" + merges)
    report = convert(folder, tmp_path / "out")
    assert any(why in note and "no tokenizer written" in note for note in report.notes)
    assert not (tmp_path / "out" / "merges.txt").exists()


def test_half_a_surrogate_pair_in_a_vocabulary_is_refused(copy, tmp_path):
    folder = copy(DATA / "gpt2")
    gpt2(folder, {"a": 0, "\ud800": 1})
    with pytest.raises(tfreader.ConfigError, match=r"encoder.json: not a JSON vocabulary: .*ud800"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "why"), [(b"[UNK]\ncaf\xe9\n", "not UTF-8"), (b"[PAD]\na\n", "no [UNK] in it")]
)
def test_words_that_no_tokenizer_loads_are_not_written(copy, tmp_path, words, why):
    folder = copy(BERT)
    (folder / "vocab.txt").write_bytes(words)
    report = convert(folder, tmp_path / "out")
    assert any(f"{why}: no tokenizer written" in note for note in report.notes)
    assert not (tmp_path / "out" / "vocab.txt").exists()
    assert not (tmp_path / "out" / "tokenizer_config.json").exists()


@pytest.mark.parametrize(
    ("codes", "written"),
    [(b"c a 9\r\n\r\nth e</w> 4\r\n", b"c a 9\nth e</w> 4\n"), (b"caf\xe9 x 3\n", None)],
)
def test_bpe_codes_become_merges_that_load_or_none(copy, tmp_path, codes, written):
    folder = copy(DATA / "xlm" / "causal")
    (folder / "codes_enfr").write_bytes(codes)
    report = convert(folder / "best-valid_en_clm_ppl.pth", tmp_path / "out")
    merges = tmp_path / "out" / "merges.txt"
    assert (merges.read_bytes() if merges.exists() else None) == written
    assert written is not None or any("are no BPE codes" in note for note in report.notes)
