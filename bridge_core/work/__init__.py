"""Conversions in parts: lists, parts, receipts, manifests."""
