"""Small models of one tokenizer, as folders."""

from tests.export.conftest import make_export, make_folder, tokenizer_json  # noqa: F401 - fixtures
