"""What tests, chaos, bench and the demo share: real servers, workers as processes, producers, ledgers, tree checks."""
