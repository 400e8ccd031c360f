# Three doors; the work is in scripts/. Each installs what it needs on Debian 12 with a Rust toolchain.
.PHONY: demo test bench

demo: ; @scripts/demo
test: ; @scripts/test
bench: ; @scripts/bench
