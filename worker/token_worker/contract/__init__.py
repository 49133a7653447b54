"""Message contract: the requests that producers send and the replies that they get."""
