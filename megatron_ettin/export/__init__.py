"""Models to and from Hugging Face folders: one name table, dual-format configs, and a proof of equal logits."""

from megatron_ettin.export.huggingface import Export, Import, read_canonical, read_folder, write_folder
from megatron_ettin.export.predictions import prediction_positions, read_predictions

__all__ = [
    "Export",
    "Import",
    "prediction_positions",
    "read_canonical",
    "read_folder",
    "read_predictions",
    "write_folder",
]
