"""HTTP in and out: parse, one service call, answer. No decisions."""
