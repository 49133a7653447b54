"""Work of operators: keys, tokens, replay, dead letters, lag, ACL rules and the doctor. Workers import none of it."""
