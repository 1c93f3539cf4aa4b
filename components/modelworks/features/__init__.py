"""Stores behind Feast's own interfaces."""
