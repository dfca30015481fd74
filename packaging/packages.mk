# Packages and their tests; included by the Makefile. All that is built goes below target/packages.

.PHONY: deb rpm deb-arm64 dist test-packages test-source test-selinux test-arm64 packages-programs

PACKAGES := target/packages

packages-programs:
	tests/packages/requirements build
	packaging/build programs amd64

deb: packages-programs ## the .deb for amd64, in target/packages
	packaging/build deb amd64

rpm: packages-programs ## the .rpms for x86_64
	packaging/build rpm amd64

# Its manual pages and completions are written by this machine's program.
deb-arm64: packages-programs ## the .deb for arm64
	tests/packages/requirements dist
	packaging/build programs arm64
	packaging/build deb arm64

dist: ## both for amd64 and arm64, SHA256SUMS and a bill of materials
	tests/packages/requirements dist
	packaging/build dist all

test-packages: deb rpm ## the packages in booted machines (root)
	tests/packages/requirements test
	CARGO_TARGET_DIR=target cargo build --locked --package eic-simulator
	tests/packages/run

test-source: deb rpm ## dpkg-buildpackage and rpmbuild in the plain sources
	tests/packages/requirements test
	EIC_SOURCE=1 tests/packages/run source

test-selinux: deb ## the SELinux module in an enforcing virtual machine (root)
	tests/packages/requirements selinux
	CARGO_TARGET_DIR=target cargo build --locked --package eic-simulator
	tests/packages/selinux

test-arm64: deb-arm64 ## the arm64 package on an emulated machine of that architecture (root)
	tests/packages/requirements arm64
	CARGO_TARGET_DIR=target cargo build --locked --package eic-simulator
	tests/packages/arm64
