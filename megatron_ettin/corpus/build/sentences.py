"""Sentence splitting as Megatron-LM does it: nltk's punkt, in child processes.

As a program (``python -m megatron_ettin.corpus.build.sentences LANGUAGE KEEP_NEWLINES``) it is one such child.
"""

from __future__ import annotations

import contextlib
import os
import queue
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import ConfigError, DataError

LONGEST_TEXT = 1_000_000
"""Characters given to punkt at once: Megatron-LM cuts longer texts there."""
FRAME = struct.Struct("<QQQ")
"""Bytes, texts and documents that follow: the header of a message in both directions."""

SplitBatch = tuple[bytes, NDArray[np.uint64], NDArray[np.uint32]]


def load_splitter(language: str, *, keep_newlines: bool) -> Any:  # noqa: ANN401 - nltk
    """nltk's tokenizer for a language. Raises ConfigError, with the remedy, when its data is not on this machine."""
    from nltk.tokenize import punkt

    try:
        splitter = punkt.PunktTokenizer(language)
    except LookupError as error:
        raise ConfigError(
            f"--split-sentences needs nltk's punkt_tab data for {language!r}, which is not on this machine: run "
            "`python -m nltk.downloader punkt_tab` where there is a network, and point NLTK_DATA at the folder"
        ) from error
    if not keep_newlines:
        return splitter

    class NewlineKeeper(punkt.PunktLanguageVars):  # type: ignore[misc]
        """Sentences keep the white space that ends them, as in Megatron-LM."""

        _period_context_fmt = r"""
        \S*                          # some word material
        %(SentEndChars)s             # a potential sentence ending
        \s*                          # all white space belongs to the sentence
        (?=(?P<after_tok>
            %(NonWord)s              # either other punctuation
            |
            (?P<next_tok>\S+)        # or some other token
        ))"""

    return punkt.PunktSentenceTokenizer(train_text=splitter._params, lang_vars=NewlineKeeper())


def split_text(splitter: Any, text: str) -> list[str]:  # noqa: ANN401 - nltk
    """The sentences of one text."""
    pieces = (text[start : start + LONGEST_TEXT] for start in range(0, len(text), LONGEST_TEXT))
    return [sentence for piece in pieces for sentence in splitter.tokenize(piece)]


def _send(stream: IO[bytes], content: bytes, ends: NDArray[np.uint64], counts: NDArray[np.uint32]) -> None:
    stream.write(FRAME.pack(len(content), len(ends), len(counts)))
    stream.write(content)
    stream.write(ends.astype("<u8").tobytes())
    stream.write(counts.astype("<u4").tobytes())
    stream.flush()


def _receive(stream: IO[bytes]) -> SplitBatch | None:
    header = stream.read(FRAME.size)
    if len(header) < FRAME.size:
        return None
    size, texts, documents = FRAME.unpack(header)
    content, ends, counts = stream.read(size), stream.read(8 * texts), stream.read(4 * documents)
    if len(counts) < 4 * documents:
        return None
    return content, np.frombuffer(ends, np.uint64), np.frombuffer(counts, np.uint32)


class SentencePool(contextlib.AbstractContextManager["SentencePool"]):
    """Child processes that split batches of texts; called from the builder's threads, one child a call.

    Plain processes with pipes: they read the end of their input and go when the build is killed. The workers of
    ``concurrent.futures.ProcessPoolExecutor`` stay behind then, however they are started.
    """

    def __init__(self, language: str, *, keep_newlines: bool, children: int) -> None:
        load_splitter(language, keep_newlines=keep_newlines)  # an early, clear error
        command = [sys.executable, "-m", __name__, language, str(int(keep_newlines))]
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            for _ in range(children)
        ]
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)

    def __call__(self, content: bytes, ends: NDArray[np.uint64]) -> SplitBatch:
        """(sentences back to back, end of each, number of sentences of each text)."""
        child = self._free.get()
        try:
            assert child.stdin is not None and child.stdout is not None
            _send(child.stdin, content, ends, np.empty(0, np.uint32))
            answer = _receive(child.stdout)
        except OSError:
            answer = None
        finally:
            self._free.put(child)
        if answer is None:
            raise DataError("the process that splits sentences ended; its message stands above")
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            for stream in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    stream and stream.close()
            child.wait()


def serve(splitter: Any, source: IO[bytes], target: IO[bytes]) -> None:  # noqa: ANN401 - nltk
    """Answer batches until the input ends."""
    while (batch := _receive(source)) is not None:
        content, ends, _ = batch
        bounds = [0, *ends.tolist()]
        split = [
            split_text(splitter, content[begin:end].decode()) for begin, end in zip(bounds, bounds[1:], strict=False)
        ]
        pieces = [sentence.encode() for sentences in split for sentence in sentences]
        lengths = np.array([len(piece) for piece in pieces], np.uint64)
        counts = np.array([len(sentences) for sentences in split], np.uint32)
        _send(target, b"".join(pieces), np.cumsum(lengths, dtype=np.uint64), counts)


if __name__ == "__main__":
    serve(load_splitter(sys.argv[1], keep_newlines=sys.argv[2] == "1"), sys.stdin.buffer, sys.stdout.buffer)
