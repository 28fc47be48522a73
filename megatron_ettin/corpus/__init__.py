"""An indexed dataset on disk: format, manifest, reader, verification. No torch, no Megatron."""
