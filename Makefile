# Four doors; the work is in scripts/. Each installs what it needs on Debian 12 with a Rust toolchain.
.PHONY: demo test test-cluster bench

demo: ; @scripts/demo
test: ; @scripts/test
test-cluster: ; @scripts/test-cluster
bench: ; @scripts/bench
