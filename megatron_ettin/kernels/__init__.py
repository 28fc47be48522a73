"""How one rank computes: products, linear layers, pointwise parts, rotary embedding."""
