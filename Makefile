# The doors; the work is in scripts/. Each installs what it needs on Debian 12 with a Rust toolchain.
.PHONY: demo test test-cluster test-stores bench bench-nbd

demo: ; @scripts/demo
test: ; @scripts/test
test-cluster: ; @scripts/test-cluster
test-stores: ; @scripts/test-stores
bench: ; @scripts/bench
bench-nbd: ; @scripts/bench-nbd
