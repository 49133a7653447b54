"""Tools that tests share: what runs servers, workers and producers, and what checks the tree."""
