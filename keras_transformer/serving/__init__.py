"""Translations over HTTP: an engine that translates, a batcher that puts requests together, the application, and a page."""
