"""Small exported models and hand-made held-out text."""

from tests.export.conftest import make_export, make_folder, tokenizer_json  # noqa: F401
