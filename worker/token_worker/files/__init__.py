"""Tokenize or detokenize columns of whole files: CSV, TSV, JSON Lines and Parquet. Everything else stays as it was.

``job`` runs a file, ``output_paths`` names the files that it writes, and ``progress`` is the checkpoint of an
interrupted run. ``inputs`` opens a file of any format; ``delimited``, ``json_lines`` and ``parquet`` know one format
each. ``rows`` holds rows in chunks, and ``sending`` keeps several chunks in flight and their answers in order.

For Parquet, ``parquet_footer`` reads the footer, which is written in the encoding of ``thrift``. ``parquet_cells`` says
which columns can hold which tokens, and ``parquet_output`` assembles the new file.
"""
