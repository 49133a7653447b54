"""Tokens of every kind of format before independent judges; ``scripts/judge`` runs it.

The real engine tokenizes many values on storage in memory and detokenizes the tokens. ``kinds/`` has a module for each
kind: values, what stays of them, and a judge, which is another library or code that shares nothing with the product.
"""
