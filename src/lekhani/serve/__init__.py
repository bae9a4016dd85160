"""The HTTP server: API, champions from the registry, monitoring, and a page to try it."""
