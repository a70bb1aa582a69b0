"""HTTP routes, one module per contract or resource."""
