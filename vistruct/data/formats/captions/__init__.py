"""Formats of captions: sentences of people about whole images."""
