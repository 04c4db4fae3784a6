# Tortie: BGP-routed pod networking. `make` alone lists the targets.

SHELL         := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOL    := $(GO) tool -modfile=tests/tools.mod
NODES   ?= 3
PODS    ?= 2
LABS    ?=
FUZZTIME ?= 30s
HOURS   ?= 240
SOAK_CALLS ?= 100000
SOAK_SEED  ?=

# Every program is static: it must run in an empty image and in any mount namespace.
export CGO_ENABLED := 0
LDFLAGS := -s -w -X main.version=$(VERSION)
BUILD   := $(GO) build -trimpath -ldflags '$(LDFLAGS)'
# The plugin begins at its own entry where it has one; see cni-plugin/entry_amd64.go.
ENTRY   := $(if $(filter amd64,$(shell $(GO) env GOARCH)),-E main.entry)

# The unit tests are everything but the whole-program tests on the lab.
UNIT = $(shell $(GO) list ./... | grep -Ev '^tortie/tests/(fv|e2e)$$')

VM_TOOLS := qemu-system-x86_64:qemu-system-x86 depmod:kmod xz:xz-utils

.PHONY: help build image-programs e2e-tools images manifests lab lab-down clab test unit fv test-vm cluster cluster-down e2e e2e-short race bench bench-ipam soak fuzz fmt lint check generate clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build every program, static, into bin/.
	@mkdir -p bin
	@[ ! -t 1 ] || [ -e bin/felix ] || echo 'building; the first time takes minutes …'
	@$(BUILD) -o bin/felix ./felix
	@$(GO) run ./bgpd/library -out .cache
	@$(BUILD) -modfile=.cache/gobgp.mod -o bin/bgpd ./bgpd
	@$(BUILD) -ldflags '$(LDFLAGS) $(ENTRY)' -o bin/calico ./cni-plugin && ln -sf calico bin/calico-ipam && ln -sf calico bin/loopback
	@$(BUILD) -o bin/install-cni ./cni-plugin/install
	@$(BUILD) -o bin/ $(addprefix github.com/containernetworking/plugins/plugins/,meta/bandwidth meta/portmap meta/tuning)
	@$(BUILD) -o bin/calicoctl ./calicoctl
	@$(BUILD) -o bin/kube-controllers ./kube-controllers
	@$(BUILD) -o bin/lab ./tests/lab/cmd
	@$(BUILD) -o bin/lab-agent ./tests/lab/agent
	@$(BUILD) -o bin/clab ./tests/clab/cmd

image-programs: build
	@$(BUILD) -o bin/etcd go.etcd.io/etcd/server/v3

images: image-programs ## Build the OCI images into bin/images/: for docker load and ctr images import.
	@tests/install.sh nft:nftables
	@$(GO) run ./manifests/images -bin bin -out bin/images -version $(VERSION) -revision $$(git rev-parse HEAD) -created $$(git show -s --format=%ct)

manifests: ## Make the single files manifests/*.yaml of their kustomizations.
	@UPDATE_MANIFESTS=1 $(GO) test -count 1 -run TestSingleFilesAreWhatTheOverlaysMake ./manifests

lab: build ## Bring up a fresh lab (NODES=3 PODS=2), show it, check every path; it stays up.
	@tests/install.sh nft:nftables ip:iproute2
	@bin/lab down >/dev/null
	@bin/lab up --nodes $(NODES) --pods $(PODS)
	@bin/lab status
	@echo
	@bin/lab check

lab-down: ## Take the lab down; nothing of it is left.
	@bin/lab down

clab: images ## Deploy the labs of tests/clab in containerlab (LABS=all), check and break each, destroy it.
	@tests/install.sh ip:iproute2
	@bin/clab run $(LABS)

test: unit fv test-vm ## Run every test.

unit: build ## Run the tests of every package (no lab).
	@tests/install.sh nft:nftables ip:iproute2 bird:bird2 ping:iputils-ping /usr/lib/frr/bfdd:frr /usr/lib/cni/host-local:containernetworking-plugins $(VM_TOOLS)
	$(GO) test -modfile=.cache/gobgp.mod -timeout 20m $(UNIT)

fv: image-programs ## Run the whole programs on a lab: faults under traffic, etcd away, bad input.
	@tests/install.sh nft:nftables ip:iproute2 runc:runc curl:curl ping:iputils-ping nsenter:util-linux sysctl:procps /usr/lib/cni/host-local:containernetworking-plugins
	$(GO) test -timeout 25m -count 1 ./tests/fv

test-vm: image-programs ## Run the tests that need what this kernel lacks (IPIP, WireGuard …) in a virtual machine with Debian's (VM_FLAGS=-labs=false: no whole labs).
	@tests/install.sh nft:nftables ip:iproute2 $(VM_TOOLS)
	@$(BUILD) -o bin/vm ./tests/vm/cmd
	@bin/vm -timeout 25m -tests $(VM_FLAGS)

e2e-tools: images
	@tests/install.sh containerd:containerd runc:runc bird:bird2 nft:nftables ip:iproute2 iptables:iptables ping:iputils-ping tc:iproute2 /usr/lib/cni/ptp:containernetworking-plugins
	@$(BUILD) -o bin/e2e ./tests/e2e/cmd

cluster: e2e-tools ## Start a real Kubernetes cluster without a network on this machine, images loaded; bin/e2e shell.
	@bin/e2e up
	@echo 'Three nodes are up. Go on with: bin/e2e shell'

cluster-down: ## Take the cluster down; nothing of it is left.
	@bin/e2e down

e2e: e2e-tools ## Install on a real Kubernetes cluster (built once, 10 to 30 minutes), break it, measure it.
	$(GO) test -timeout 90m -count 1 -v ./tests/e2e

e2e-short: e2e-tools ## The part of it that takes minutes.
	$(GO) test -timeout 60m -count 1 -v -short -skip '^TestIPv[46]Alone$$' ./tests/e2e

# GoBGP's StopBgp races with its own receive loops: what tests the library itself is left out.
race: build ## Run the package tests under the race detector (needs gcc).
	@tests/install.sh nft:nftables ip:iproute2 bird:bird2 ping:iputils-ping /usr/lib/frr/bfdd:frr /usr/lib/cni/host-local:containernetworking-plugins gcc:gcc $(VM_TOOLS)
	CGO_ENABLED=1 $(GO) test -modfile=.cache/gobgp.mod -race -timeout 40m $(filter-out tortie/bgpd/speaker/gobgp,$(UNIT))

bench: build ## Measure CNI ADD and DEL beside ptp + host-local and their floors, bgpd beside BIRD, addresses beside bare etcd.
	@tests/install.sh nft:nftables ip:iproute2 bird:bird2 /usr/lib/cni/ptp:containernetworking-plugins
	@$(GO) run ./tests/bench -bin bin
	@$(MAKE) --no-print-directory bench-ipam

bench-ipam: ## Of these, addresses beside bare etcd alone (a minute).
	@$(GO) test -run '^$$' -bench . -benchtime 300x -timeout 20m ./ipam/ipamtest

soak: ## Long proofs: IPAM with nodes and etcd killed at random (SOAK_CALLS=100000 SOAK_SEED=), bgpd with HOURS=240 of churn, compressed.
	SOAK_CALLS=$(SOAK_CALLS) SOAK_SEED=$(SOAK_SEED) $(GO) test -count 1 -v -timeout 120m -run TestSoak ./ipam/ipamtest
	$(GO) test -count 1 -timeout 120m -run 'EveryOrder|AgreeWithTheModel' ./ipam -rapid.checks=20000
	@$(GO) run ./tests/bench -soak $(HOURS)

fuzz: ## Fuzz every target for a while (FUZZTIME=30s each); their seeds are part of unit.
	@set -e; for f in $$(git grep -l '^func Fuzz' -- '*_test.go'); do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$f); do \
	    echo "$$f: $$t"; $(GO) test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s ./$$(dirname $$f); \
	  done; done

fmt: ## Format the Go code.
	@$(TOOL) gofumpt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

lint: ## Run the linters (their first build takes minutes).
	@$(TOOL) golangci-lint run --config tests/golangci.yaml ./...

check: ## What a change must pass before it is committed: formatting, vet, architecture rules.
	@test -z "$$($(TOOL) gofumpt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$') | tee /dev/stderr)" || { echo 'check: not formatted; run: make fmt' >&2; exit 1; }
	@$(GO) vet ./...
	@$(GO) test ./tests/arch

generate: ## Generate the gRPC code.
	@tests/install.sh protoc:protobuf-compiler
	@mkdir -p .cache
	@$(GO) build -modfile=tests/tools.mod -o .cache/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@PATH=$(CURDIR)/.cache:$$PATH protoc --go_out=. --go_opt=module=tortie --go-grpc_out=. --go-grpc_opt=module=tortie internal/control/nodestatus/nodestatus.proto

clean: ## Remove what was built.
	@rm -rf bin .cache
