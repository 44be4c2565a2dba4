"""The package's version: that of the headers which it mirrors."""

__version__ = "0.1.0"
