"""CLIP's byte-pair tokenizer by the `tokenizers` library alone; transformers is not imported.

Reads the files of a Hugging Face checkpoint (`vocab.json` and `merges.txt`, or `tokenizer.json`)
and gives the same ids as `transformers.CLIPTokenizer`, whose rules are fixed: NFC, white space to
one space, lower case, CLIP's word pattern, byte-level BPE with `</w>` at the end of a word.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from jax_vlffd import hub
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.files import read_text
from jax_vlffd.json_reading import parse_json

BOS: Final = "<|startoftext|>"
EOS: Final = "<|endoftext|>"
END_OF_WORD: Final = "</w>"

#: Every byte twice, inside and at the end of a word, and BOS and EOS.
MIN_VOCABULARY: Final = 2 * 256 + 2

_FILES: Final = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_MAX_FILE_BYTES: Final = 64 << 20
_WORDS: Final = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_CACHED_TEXTS: Final = 1 << 16


class Tokenizer:
    """Text to CLIP token ids: BOS, the text, EOS, then padding.

    Attributes:
        vocab_size: rows that an embedding table needs (the largest id plus 1).
        bos_id: id that starts every text.
        eos_id: id that ends every text.
        pad_id: id after the end; CLIP's own checkpoints pad with EOS, some LAION ones with 0.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        special: dict[str, str] | None = None,
        normalized: frozenset[str] = frozenset(),
    ) -> None:
        """Makes a tokenizer from a vocabulary, its merges and the names of the special tokens.

        Args:
            vocab: token to id.
            merges: pairs in order of priority.
            special: `bos_token`, `eos_token`, `pad_token`, `unk_token`; CLIP's own where missing.
            normalized: special tokens that are looked for in the normalized text, not the raw one.
        """
        names = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
        names.update(special or {})
        self._parts = (vocab, merges, names, normalized)
        bpe = BPE(
            vocab=vocab,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=END_OF_WORD,
            fuse_unk=False,
            unk_token=names["unk_token"],
        )
        self._tokenizer = _pipeline(bpe)
        for name in names.values():
            if name not in vocab:
                raise ValueError(f"the special token {name!r} is not in the vocabulary")
        # As in transformers, special tokens are found in the text before it is split into words.
        self._tokenizer.add_special_tokens(
            [
                tokenizers.AddedToken(name, normalized=name in normalized, special=True)
                for name in dict.fromkeys(names.values())
            ]
        )
        self.bos_id = vocab[names["bos_token"]]
        self.eos_id = vocab[names["eos_token"]]
        self.pad_id = vocab[names["pad_token"]]
        self.vocab_size = max(vocab.values()) + 1
        self._ids = functools.lru_cache(_CACHED_TEXTS)(self._encode_one)

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """Loads from a folder, or from a hub id such as `openai/clip-vit-base-patch16[@REVISION]`.

        Raises:
            UserError: the files are missing, too large, or not a CLIP tokenizer's.
        """
        folder = _folder(source)
        special, normalized = _special_tokens(folder)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab, merges = _read_json(folder / "vocab.json"), _read_merges(folder / "merges.txt")
            origin = folder / "vocab.json"
        elif (folder / "tokenizer.json").is_file():
            origin = folder / "tokenizer.json"
            vocab, merges = _from_tokenizer_json(origin)
        else:
            raise UserError(
                f"{source} holds no tokenizer: it needs vocab.json and merges.txt, or "
                "tokenizer.json"
            )
        if not isinstance(vocab, dict) or not all(
            isinstance(token, str) and type(index) is int and index >= 0
            for token, index in vocab.items()
        ):
            raise UserError(f"{origin} does not map tokens to ids")
        try:
            return cls(vocab, merges, special, normalized)
        except Exception as error:  # the library raises plain Exception for faulty merges
            raise UserError(f"{origin} is not a CLIP tokenizer ({error})") from error

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Token ids of some texts.

        Args:
            texts: n texts.
            length: tokens a text, at least 2; longer texts are cut so that EOS stays.

        Returns:
            int32 [n, length]: BOS, text, EOS, then `pad_id`.
        """
        if length < 2:
            raise ValueError(f"length {length} leaves no room for BOS and EOS")
        tokens = np.full((len(texts), length), self.pad_id, np.int32)
        tokens[:, 0] = self.bos_id
        for row, text in zip(tokens, texts, strict=True):
            ids = self._ids(text)[: length - 2]
            row[1 : 1 + len(ids)] = ids
            row[1 + len(ids)] = self.eos_id
        return tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a text that is not cut, with BOS and EOS."""
        return len(self._ids(text)) + 2

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that decides which ids a text gets."""
        return hashlib.sha256(json.dumps(self._parts, default=sorted).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load` and `transformers.CLIPTokenizer` read."""
        _write_files(Path(folder), *self._parts)

    def _encode_one(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, self._parts


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Tokenizer:
    """Trains a small CLIP tokenizer and writes the files that `transformers.CLIPTokenizer` loads.

    The vocabulary is laid out as CLIP's: 256 bytes, the same at the end of a word, the merges, BOS,
    EOS. Every byte is in it, so no text is ever unknown.

    Args:
        texts: what to learn the merges from.
        vocab_size: at most so many tokens, at least MIN_VOCABULARY; few texts give fewer.
        folder: where the files are written.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < MIN_VOCABULARY:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: bytes alone need {MIN_VOCABULARY}"
        )
    model = _pipeline(BPE(end_of_word_suffix=END_OF_WORD))
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        # Named beforehand, the bytes get fixed ids: ties between merges are settled by id, and
        # without this by the order of a hash map.
        special_tokens=list(tokens),
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    learned = json.loads(model.to_str())["model"]["merges"]
    merges = [(str(left), str(right)) for left, right in learned]
    tokens += [left + right for left, right in merges]
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*tokens, BOS, EOS]))}
    tokenizer = Tokenizer(vocab, merges)
    tokenizer.save(folder)
    return tokenizer


def _pipeline(model: BPE) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{source} is a file: name the folder that holds the tokenizer's files")
    if isinstance(source, Path) or hub.parse(source) is None:
        raise UserError(f"{source} does not exist: name a folder with a tokenizer's files")
    return hub.download(source, allow=_FILES)


def _special_tokens(folder: Path) -> tuple[dict[str, str], frozenset[str]]:
    """Names of the special tokens, and which are matched in normalized text.

    `special_tokens_map.json` is read after the config and wins, as in transformers.
    """
    names: dict[str, str] = {}
    normalized: set[str] = set()
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / file).is_file():
            continue
        content = _read_json(folder / file)
        if not isinstance(content, dict):
            raise UserError(f"{folder / file} is not a JSON object")
        for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = content.get(key)
            if isinstance(value, dict):
                if value.get("normalized") is True:
                    normalized.add(str(value.get("content")))
                value = value.get("content")
            if isinstance(value, str):
                names[key] = value
    return names, frozenset(normalized)


def _read_text(path: Path) -> str:
    return read_text(path, _MAX_FILE_BYTES)


def _read_json(path: Path) -> Any:
    try:
        # Lenient: `model_max_length` is 10^30 where nobody set it.
        return parse_json(_read_text(path), lenient=True)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); fetch it again") from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise UserError(f"{path}:{number}: a merge is two tokens with a space between")
        merges.append((left, right))
    return merges


def _from_tokenizer_json(path: Path) -> tuple[Any, list[tuple[str, str]]]:
    content = _read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or model.get("end_of_word_suffix") != END_OF_WORD:
        raise UserError(f"{path} is not a CLIP tokenizer: byte-pair encoding with {END_OF_WORD!r}")
    try:
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        return model["vocab"], [(str(left), str(right)) for left, right in pairs]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has faulty merges ({error!r}); fetch it again") from error


def _write_files(
    folder: Path,
    vocab: dict[str, int],
    merges: Sequence[tuple[str, str]],
    special: dict[str, str],
    normalized: frozenset[str] = frozenset(),
) -> None:
    plain = {"lstrip": False, "rstrip": False, "single_word": False}
    tokens = {
        key: {"content": name, **plain, "normalized": True} if name in normalized else name
        for key, name in special.items()
    }
    config = {**special, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    atomic_write_text(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    atomic_write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    atomic_write_text(folder / "special_tokens_map.json", json.dumps(tokens, indent=2) + "\n")
    atomic_write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
