"""KLANN: small, fast, readable neural models of audio devices (Huhtala, Juvela, Schlecht 2024)."""

__version__ = "0.1.0"
