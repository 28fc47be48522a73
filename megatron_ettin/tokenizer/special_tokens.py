"""The special tokens of Ettin, what each of them is for, and which tokens of other tokenizers take their roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.regular_files import read_regular
from megatron_ettin.typed_json import parse_json

UNKNOWN, CLS, SEP, PAD, MASK, END_OF_TEXT = "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "<|endoftext|>"
SPECIAL_TOKENS = (UNKNOWN, CLS, SEP, PAD, MASK, END_OF_TEXT)
"""In the order of their ids in a tokenizer of `ettin tokenizer train`."""
ROW_TOKENS = (CLS, SEP, PAD, MASK)
"""Those that rows and masks need."""
ROLES = {
    "bos_token": CLS, "eos_token": SEP, "cls_token": CLS, "sep_token": SEP, "pad_token": PAD, "mask_token": MASK,
    "unk_token": UNKNOWN,
}  # fmt: skip
"""Role in transformers -> token; the decoder's end of text is [SEP] too."""
ROLE_NAMES = {"cls": CLS, "sep": SEP, "pad": PAD, "mask": MASK, "unk": UNKNOWN}
"""Role, as ``--special`` calls it -> Ettin's token of that role, which names the role in manifests."""
SPECIAL_HELP = (
    "tokens of roles, such as mask=<mask> cls=<s>; roles: cls, sep, pad, mask, unk (default: as in the "
    "tokenizer_config.json beside tokenizer.json, else [CLS] [SEP] [PAD] [MASK] [UNK])"
)
CONFIG_FILE = "tokenizer_config.json"


def find_roles(
    find: Callable[[str], int], config: Mapping[str, Any], given: Mapping[str, str], where: str
) -> dict[str, int]:
    """Ids by role, each role called by Ettin's token for it; roles that no token has are left out.

    A token that ``given`` names (``{"mask": "<mask>"}``) comes first, then the one that ``config``
    (tokenizer_config.json) names, then Ettin's own name for it; bos and eos stand in for cls and sep.
    ``find`` gives the id of a token, or -1. Raises ConfigError for a given role or token that does not exist.
    """
    if unknown := given.keys() - ROLE_NAMES.keys():
        raise ConfigError(f"--special {min(unknown)}={given[min(unknown)]}: a role is one of {', '.join(ROLE_NAMES)}")
    others = {"cls": "bos", "sep": "eos"}
    found: dict[str, int] = {}
    for role, name in ROLE_NAMES.items():
        if role in given and find(given[role]) < 0:
            raise ConfigError(f"--special {role}={given[role]}: {where} has no such token; name one that it has")
        choices = [given.get(role), _named(config, role), name]
        choices += [_named(config, others[role])] if role in others else []
        ids = [find(token) for token in choices if token is not None]
        found |= {name: next((i for i in ids if i >= 0), -1)}
    found[END_OF_TEXT] = find(END_OF_TEXT)
    return {name: found[name] for name in SPECIAL_TOKENS if found[name] >= 0}


def _named(config: Mapping[str, Any], role: str) -> str | None:
    token = config.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def read_roles(file: Path) -> dict[str, Any]:
    """The tokenizer_config.json beside a tokenizer.json; empty where there is none. Raises DataError."""
    path = file.with_name(CONFIG_FILE)
    try:
        content = parse_json(read_regular(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); correct it, or take it away") from error
    return content if isinstance(content, dict) else {}


def parse_special(words: list[str]) -> dict[str, str]:
    """``mask=<mask>`` and the like, as typed -> role and token. Raises ConfigError."""
    found: dict[str, str] = {}
    for word in words:
        role, mark, token = word.partition("=")
        if not (mark and token) or role not in ROLE_NAMES or role in found:
            raise ConfigError(f"--special {word}: write ROLE=TOKEN, each role once, of {', '.join(ROLE_NAMES)}")
        found[role] = token
    return found


def missing_roles(special_ids: Mapping[str, int]) -> list[str]:
    """Roles that rows and masks need and that no token has, as ``--special`` calls them."""
    return [role for role, name in ROLE_NAMES.items() if name in ROW_TOKENS and name not in special_ids]
