"""Kernels of the pointwise parts for GPUs, in Triton: each beside what defines it and what it costs.

Imported only where Triton is installed and the tensors are on a GPU. Everything is computed in fp32 whatever the type
of the tensors, and rounded once.
"""
