# Packages and their tests; included by the Makefile. All that is built goes below target/packages.
#
#   make deb rpm          amd64 and x86_64, for this machine's use and for the tests
#   make dist             both architectures, SHA256SUMS and a bill of materials
#   make test-packages    on booted machines, as root
#   make test-selinux     in an enforcing virtual machine, as root or not

.PHONY: deb rpm dist test-packages test-selinux packages-programs

PACKAGES := target/packages

packages-programs:
	tests/packages/requirements build
	packaging/build programs amd64

deb: packages-programs
	packaging/build deb amd64

rpm: packages-programs
	packaging/build rpm amd64

dist:
	tests/packages/requirements dist
	packaging/build dist all

test-packages: deb rpm
	tests/packages/requirements test
	CARGO_TARGET_DIR=target cargo build --locked --package eic-simulator
	tests/packages/run

test-selinux: deb
	tests/packages/requirements selinux
	CARGO_TARGET_DIR=target cargo build --locked --package eic-simulator
	tests/packages/selinux
