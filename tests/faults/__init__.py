"""Faults, systematically: each critical system call and each named point of each operation is cut, one at a time."""
