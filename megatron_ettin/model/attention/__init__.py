"""Attention on packed rows: back ends, their choice, and what context ranks exchange."""
