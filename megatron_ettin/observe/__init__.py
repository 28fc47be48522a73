"""Speed, memory, records and pictures of a run."""

from megatron_ettin.observe.meter import Meter, Reading, peak_bytes
from megatron_ettin.observe.records import read_records
from megatron_ettin.observe.sinks import Sinks, open_sinks

__all__ = ["Meter", "Reading", "Sinks", "open_sinks", "peak_bytes", "read_records"]
