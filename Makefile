# Everything that is done with this tree. `make` alone lists it.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Any Go from 1.21 on fetches the version that go.mod asks for.
export GOTOOLCHAIN := auto
# git may be absent, or refuse a tree that another user owns; then binaries carry no commit.
VCS   := $(if $(shell git status --porcelain=v1 -uno >/dev/null 2>&1 && echo ok),true,false)
BUILD := go build -trimpath -buildvcs=$(VCS)
TEST  := go test -buildvcs=false -timeout 15m
TOOL  := go tool -modfile=tools/go.mod

# Where kernels and disk templates are made. The place that the docs name is ASSETS=/opt/vm-assets.
ASSETS ?= build/vm-assets
# gokrazy: a kernel from a Go module, ready in seconds. micro: a small one, built from Debian's source in minutes.
KERNEL ?= gokrazy
# State of `make run`.
STATE  ?= build/state
# Arguments for `make bench`, such as BENCH=Create.
BENCH  ?= .
# Arguments for `make conformance`, such as CONFORMANCE='-packages fake,firecracker'.
CONFORMANCE ?=
# Arguments for `make lab`, such as LAB='-run KVM -packages ./internal/backend/qemu'. A host of the lab loses its power
# while metald meters guests, 50 times, by METALD_LAB=1 go test ./test/lab/powerloss -timeout 3h.
LAB    ?=

# What `make build` builds: all but the tools of this tree, which are run from source, and the guest's init.
COMMANDS := $(filter-out docgen guest-init vm-assets,$(notdir $(wildcard cmd/*)))

.PHONY: help demo run build test soak lint generate docs bench conformance lab vm-assets packages clean
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: packages-run build vm-assets ## boot a real VM through the API and show each step
	build/demo -metald build/metald -assets $(ASSETS)

run: packages-run build vm-assets ## leave a metald running in the foreground, with curl lines to try
	hack/run $(ASSETS) $(STATE)

build: packages-build ## build/metald and the other commands
	@for c in $(COMMANDS); do \
		out=$$c; [ $$c = api ] && out=metald; \
		echo "$(BUILD) -o build/$$out ./cmd/$$c"; \
		$(BUILD) -o build/$$out ./cmd/$$c; \
	done

test: packages-test vm-assets lint ## everything that CI runs
	METALD_TEST_ASSETS=$(abspath $(ASSETS)) $(TEST) -race ./...

soak: packages-test ## the long forms of metering's tests: crashes, faults, damage, forgeries
	METALD_TEST_SOAK=1 go test -buildvcs=false -timeout 4h -count 1 ./internal/metering/... ./internal/billing/... $(addsuffix /...,$(wildcard ./test/metering))

lint: packages-build ## gofmt, goimports, vet, staticcheck, buf, generated code
	hack/lint

generate: packages-build ## gen/ from proto/
	$(TOOL) buf generate

docs: packages-build ## rewrite the generated parts of the documentation
	go run -buildvcs=false ./cmd/docgen -write

bench: packages-test vm-assets ## compare metald with its floors; BENCH=Create runs a part
	METALD_TEST_ASSETS=$(abspath $(ASSETS)) go test -buildvcs=false -timeout 40m -run '^$$' -bench '$(BENCH)' -benchtime 1x ./test/bench ./internal/api ./internal/metering/{sampler,wal,record} ./internal/billing/store \
		| go run -buildvcs=false ./test/bench/report $(if $(filter .,$(BENCH)),-doc docs/performance.md)

conformance: packages-test vm-assets ## what each backend was seen to do, as a table in docs/backend-support.md; takes what `make lab` found
	@METALD_TEST_ASSETS=$(abspath $(ASSETS)) go run -buildvcs=false ./test/conformance $(CONFORMANCE) || failed=1; \
	go run -buildvcs=false ./cmd/docgen -write; \
	exit $${failed:-0} # what failed stands in the table

lab: packages-lab packages-micro-kernel ## run tests as root on an emulated host with real KVM; LAB='-run KVM' chooses
	go run -buildvcs=false ./cmd/vm-assets -out build/lab/assets -kernel micro
	go run -buildvcs=false ./test/lab/cmd/lab -assets build/lab/assets $(LAB)

vm-assets: packages-run $(if $(filter micro,$(KERNEL)),packages-micro-kernel) ## kernel and root disk for guests, in $(ASSETS)
	go run -buildvcs=false ./cmd/vm-assets -out $(ASSETS) -kernel $(KERNEL)

packages: packages-test ## install what build, demo and tests need

.PHONY: packages-build packages-run packages-test packages-lab packages-micro-kernel
packages-build packages-run packages-test packages-lab packages-micro-kernel: packages-%:
	@hack/packages $*

clean: ## remove build/
	rm -rf build
