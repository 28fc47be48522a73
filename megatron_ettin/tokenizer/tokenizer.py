"""The tokenizer: a tokenizer.json of the byte-level BPE family, encoded natively and exactly.

Ids are those of Hugging Face `tokenizers` without template specials, for every text. A file that the native engine
cannot reproduce exactly is refused with the reason; ``engine="huggingface"`` runs it through `tokenizers` itself.
Truncation and padding stated in the file concern model inputs, not corpora, and are not applied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from megatron_ettin import _native
from megatron_ettin.errors import DataError
from megatron_ettin.regular_files import read_regular
from megatron_ettin.tokenizer.identity import TokenizerIdentity, fingerprint_of, vocabulary_of
from megatron_ettin.tokenizer.special_tokens import find_roles, read_roles
from megatron_ettin.typed_json import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SpecialTokensInText = Literal["special", "split", "reject"]
Engine = Literal["native", "huggingface"]
NO_TOKENIZER = "give a tokenizer.json or a folder with one, or make one of your text by `ettin tokenizer train`"


class Tokenizer:
    """A loaded tokenizer with its policy for special tokens that occur in texts.

    ``special`` turns the string ``<|endoftext|>`` into the special id as Hugging Face does, ``split`` encodes it as
    plain text, ``reject`` refuses the text. Not thread-safe: one object a thread.
    """

    def __init__(
        self,
        content: str | bytes,
        special_tokens_in_text: SpecialTokensInText = "special",
        engine: Engine = "native",
        where: str = "tokenizer.json",
        config: Mapping[str, Any] | None = None,
        special: Mapping[str, str] | None = None,
    ) -> None:
        """Load from the text of a tokenizer.json; ``where`` names it in errors.

        The roles of special tokens are those that ``config`` (tokenizer_config.json) names, and before them
        ``special``, such as ``{"mask": "<mask>"}``. Raises DataError, and ConfigError for a token that is not there.
        """
        self.content = content.encode() if isinstance(content, str) else content
        """The bytes of the file."""
        self.specials_met = 0
        """Special tokens found in texts so far."""
        self.fingerprint = hashlib.sha256(_native.compact_json(self.content)).hexdigest()
        """Of the file's content without the white space of its layout."""
        try:
            self.native = _native.Tokenizer(self.content) if engine == "native" else None
            """The tokenizer of the extension, which threads may share; None with the other engine."""
            self.huggingface = None if engine == "native" else HuggingFaceEncoder(self.content, special_tokens_in_text)
            """The encoder of the other engine; None with the native one."""
        except ValueError as error:
            if "model" not in self._parse():
                raise DataError(f"{where}: not a tokenizer.json: {error}; {NO_TOKENIZER}") from error
            raise DataError(
                f"{where}: cannot be reproduced exactly: {error}; use a byte-level BPE tokenizer.json, or"
                " --tokenizer-engine huggingface, which is exact and about a hundred times slower"
            ) from error
        self._policy = special_tokens_in_text
        loaded: Any = self.native or self.huggingface
        self.vocabulary_size: int = loaded.vocabulary_size
        """One more than the largest id; len(tokenizer) where ids have no hole."""
        self.special_ids: dict[str, int] = find_roles(self.find_token, config or {}, special or {}, where)
        """Ids of ``[UNK] [CLS] [SEP] [PAD] [MASK] <|endoftext|>``, or of what takes their roles, as far as any does."""

    @cached_property
    def _encoder(self) -> Any:  # noqa: ANN401 - one of two engines
        """Made when texts come: the native one holds 16 MB of caches, and the corpus builder has its own."""
        if self.native is None:
            return self.huggingface
        return _native.Encoder(self.native, getattr(_native.SpecialPolicy, self._policy))

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        special_tokens_in_text: SpecialTokensInText = "special",
        engine: Engine = "native",
        special: Mapping[str, str] | None = None,
    ) -> Tokenizer:
        """Load a tokenizer.json, or the one in a folder, with the roles of the tokenizer_config.json beside it.

        ``special`` names tokens of roles, such as ``{"mask": "<mask>"}``. Raises DataError or ConfigError.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            content = read_regular(file)
        except FileNotFoundError as error:
            raise DataError(f"{file}: no such file; {NO_TOKENIZER}") from error
        except OSError as error:
            raise DataError(f"{file}: cannot be read as a tokenizer.json ({error}); {NO_TOKENIZER}") from error
        return cls(content, special_tokens_in_text, engine, str(file), read_roles(file), special)

    def _parse(self) -> dict[str, Any]:
        """The file as an object; empty where it is none."""
        try:
            parsed = parse_json(self.content)
        except ValueError:  # no JSON, or nested too deep
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Every token with its id, added tokens included."""
        return vocabulary_of(self._parse())

    @property
    def record(self) -> TokenizerIdentity:
        """What a corpus keeps of it. Readers take the fingerprint from its copy of the file: no build waits."""
        return TokenizerIdentity(
            sha256=self.fingerprint, vocabulary=self.vocabulary_size, special_ids=self.special_ids
        )

    @cached_property
    def identity(self) -> TokenizerIdentity:
        """What runs, checkpoints and exports keep of it."""
        return replace(self.record, fingerprint=fingerprint_of(self._parse()))

    def find_token(self, name: str) -> int:
        """Id of one token, or -1 when there is none of this name."""
        return int(self.native.find_token(name)) if self.native is not None else self.token_ids.get(name, -1)

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all texts one after another, and offsets [texts + 1].

        Text ``i`` is ``ids[offsets[i]:offsets[i + 1]]``. Neither texts nor ids are copied on the way. Raises DataError
        for a text with a lone surrogate or of more than 1 GiB, or with a special token where these are to be rejected.
        """
        try:
            ids, offsets, specials, rejected = self._encoder.encode_batch(list(texts))
        except UnicodeEncodeError as error:
            raise DataError(f"a text holds a lone surrogate, which is not text: {error}") from error
        except ValueError as error:
            raise DataError(f"{error}; cut it into documents") from error
        if rejected >= 0:
            raise DataError(f"text {rejected} holds a special token; remove it, or choose special or split")
        self.specials_met += specials
        return ids, offsets

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of one text."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of ids, special tokens included; invalid UTF-8 shows as U+FFFD. For people, not for speed."""
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        tokenizer = HuggingFaceTokenizer.from_buffer(self.content)
        text: str = tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)
        return text


class HuggingFaceEncoder:
    """The encoder of the engine ``huggingface``: any tokenizer.json, at the speed of `tokenizers`.

    Template specials, truncation and padding of the file are not applied.
    """

    def __init__(self, content: bytes, policy: SpecialTokensInText) -> None:
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        try:
            self._tokenizer = HuggingFaceTokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = policy == "split"
        self._rejects = policy == "reject"
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = [] if policy == "split" else [id for id, token in added.items() if token.special]
        self.vocabulary_size = max(self._tokenizer.get_vocab().values()) + 1

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64], int, int]:
        """(ids, offsets, special tokens met, index of the first rejected text or -1)."""
        for text in texts:
            text.encode()  # raises UnicodeEncodeError on a lone surrogate
        ids, offsets, specials = self._encode(texts)
        rejected = int(specials.argmax()) if self._rejects and specials.any() else -1
        return ids, offsets, int(specials.sum()), rejected

    def encode_utf8(
        self, content: bytes, ends: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]:
        """Texts back to back, for the corpus builder: (ids, end of each text in ids, special tokens met in each)."""
        import numpy as np

        bounds = [0, *ends.tolist()]
        texts = [content[begin:end].decode() for begin, end in zip(bounds, bounds[1:], strict=False)]
        ids, offsets, specials = self._encode(texts)
        return ids, offsets[1:].astype(np.uint64), specials.astype(np.uint64)

    def _encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """(ids, offsets, special tokens met in each text)."""
        import numpy as np

        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        lists = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        ids = np.concatenate([np.zeros(0, np.uint32), *lists])
        met = np.cumsum([0, *np.isin(ids, self._special)], dtype=np.int64)
        return ids, offsets, met[offsets[1:]] - met[offsets[:-1]]
