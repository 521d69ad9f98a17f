"""The study of what inference is worth: real programs, two workloads each, and what profiles make of them.

`benchmarks/inference_study.py` runs it; the modules here hold workloads, execution, measures and the report.
"""
