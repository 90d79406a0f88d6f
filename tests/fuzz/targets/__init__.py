"""What is fuzzed: each module here is one target, with `check(data)` that raises when a promise is broken.

No target knows of a fuzzer, so a finding is replayed by any test: `check(finding)`.
"""
