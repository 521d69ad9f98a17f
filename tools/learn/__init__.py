"""Measures the data files of ``autoprofile/learn/data``; needs gcc, musl-gcc and a kernel that can trace."""
