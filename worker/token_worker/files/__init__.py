"""Whole files: columns of CSV, TSV, JSON Lines and Parquet are tokenized or turned back, all else stays as it was.

``job`` takes a file through; ``delimited``, ``json_lines`` and ``parquet`` know a format each; ``sending`` keeps
several requests in flight and their answers in order; ``progress`` is what a run that was cut short goes on from.
Parquet has ``parquet_footer``, written in ``thrift``, ``parquet_cells`` and ``parquet_output`` besides.
"""
