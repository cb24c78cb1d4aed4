# `make` alone prints what there is. Only Go and make are needed; tools are
# pinned in tools/*/go.mod and built into bin/tools on first use.

MODULES := $(shell sed -n 's|^[[:space:]]*\./||p' go.work)
TESTED  := $(addprefix ./,$(addsuffix /...,$(filter-out integration,$(MODULES))))
TOOLS   := bin/tools
# The race detector wants a C compiler; without one Go itself turns cgo off.
RACE    := $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)
FUZZTIME ?= 60s
BENCHTIME ?= 200ms
BENCHOUT ?= bin/bench

.PHONY: help up build test check generate fmt lint race fuzz bench integration conformance chaos soak modules deps sbom
.PHONY: generated formatted vet vuln unit histories

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

up: ## build lgr, start the whole pipeline with demo apps and tail them
	@mkdir -p bin
	@echo 'building bin/lgr'
	@cd cli && go build -o ../bin/lgr ./cmd/lgr
	@bin/lgr up --demo --tail

build: ## build the programs into bin/
	@mkdir -p bin
	cd doppler && go build -o ../bin/ ./cmd/doppler
	cd trafficcontroller && go build -o ../bin/ ./cmd/trafficcontroller
	cd firehose-nozzle/cmd/firehose-nozzle && go build -o ../../../bin/ .
	cd cli && go build -o ../bin/ ./cmd/lgr

test: unit histories integration conformance chaos ## unit tests with the race detector, histories, integration, conformance, chaos

unit:
	@$(if $(RACE),,echo 'no C compiler found: testing WITHOUT the race detector';)\
	go test $(RACE) -timeout 5m $(TESTED)

# With the race detector unit plays a part of them only.
histories: ## the state machines of the servers through some 30,000 random histories, and with bugs planted in them
	go test -timeout 5m -run 'Histories|Planted|Model' ./doppler/internal/ring ./doppler/internal/reader ./doppler/internal/egress
	go test -timeout 5m -run 'Histories|Planted' ./trafficcontroller/internal/fanout -histories 2000

race: ## all tests, and the programs under test, with the race detector
	@$(if $(RACE),,echo 'the race detector needs a C compiler (gcc or clang)'; exit 1;)\
	go test -race -timeout 5m $(TESTED)
	go test -race -count=1 -timeout 20m ./integration/...

integration: ## black-box tests of the built programs
	go test -count=1 -timeout 10m $$(go list ./integration/... | grep -vE '/(conformance|chaos|soak)$$')

# In its directory and without a package go test shows what the test prints.
conformance: ## replays what was observed on the old system against the built programs: a line per case
	@cd integration/conformance && go test -count=1 -timeout 10m

# As root, or where users may have namespaces; LGR_DELIVERY=write puts the table
# that it prints into docs/delivery.md.
chaos: ## faults of networks and processes against the built programs: what each reader sees
	@cd integration/chaos && go test -count=1 -timeout 10m

# LGR_SOAK is how long, such as 5m.
soak: ## 50,000 clients come and go while others read on: 15 minutes, 5 in CI
	@cd integration/soak && LGR_SOAK=$${LGR_SOAK:-$(if $(CI),5m,15m)} go test -count=1 -timeout 30m

check: export LGR_SOAK := $(or $(LGR_SOAK),5m)
check: formatted generated vet lint vuln sbom modules deps test soak ## exactly what CI runs
	@echo 'check: all green'

fmt: ## format all Go code
	@gofmt -w $(MODULES)

formatted:
	@out=$$(gofmt -l $(MODULES)); if [ -n "$$out" ]; then echo "not formatted, run make fmt:"; echo "$$out"; exit 1; fi

vet:
	go vet $(TESTED) ./integration/...

lint: $(TOOLS)/golangci-lint ## golangci-lint with the rules of .golangci.yml
	$(TOOLS)/golangci-lint run $(TESTED) ./integration/...

# The vulnerability database is the one thing here that cannot be pinned.
vuln: $(TOOLS)/govulncheck
	@for m in $(MODULES); do \
	  out=$$($(TOOLS)/govulncheck -C $$m ./... 2>&1) && continue; \
	  case "$$out" in \
	  *'dial tcp'*|*'no such host'*|*'i/o timeout'*|*'proxyconnect'*) \
	    echo 'govulncheck: SKIPPED, its database vuln.go.dev cannot be reached from here'; exit 0;; \
	  esac; \
	  echo "$$m: $$out"; exit 1; \
	done; echo 'govulncheck: no known vulnerability'

sbom: build $(TOOLS)/cyclonedx-gomod ## a bill of materials of each program, CycloneDX in bin/sbom
	@mkdir -p bin/sbom
	@for p in doppler trafficcontroller firehose-nozzle lgr; do \
	  $(TOOLS)/cyclonedx-gomod bin -json -std -noserial -output bin/sbom/$$p.json bin/$$p 2>bin/sbom/log || { cat bin/sbom/log; exit 1; }; \
	  grep -q '"purl": "pkg:golang/google.golang.org/grpc@' bin/sbom/$$p.json || { echo "bin/sbom/$$p.json does not name gRPC"; exit 1; }; \
	  echo "bin/sbom/$$p.json: $$(grep -c '"bom-ref": "pkg:' bin/sbom/$$p.json) components"; \
	done

generate: $(TOOLS)/buf ## make the code from api/proto, and firehose-nozzle/deps.txt
	cd api && PATH="$(CURDIR)/$(TOOLS):$$PATH" buf generate
	@($(list_deps)) > firehose-nozzle/deps.txt

generated: $(TOOLS)/buf
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && cd api && export PATH="$(CURDIR)/$(TOOLS):$$PATH" && \
	buf lint && buf format --diff --exit-code && buf generate -o "$$tmp" && \
	for d in loggregatorv2 plumbingpb streampb; do \
	  diff -r "$$d" "$$tmp/$$d" || { echo "api/$$d is not what api/proto makes, run make generate"; exit 1; }; \
	done

# Every module by itself, as somebody who imports only it would have it.
modules: ## every module builds alone (GOWORK=off) and is tidy
	@for m in $(MODULES); do \
	  (cd $$m && export GOWORK=off && go build -o /dev/null ./... && go vet ./... && go mod tidy -diff) || { echo "$$m does not stand alone"; exit 1; }; \
	done
	@echo 'modules: $(words $(MODULES)) build alone and are tidy'

# What a program that imports the SDK gets: modules and packages outside Go's
# own library.
list_deps = cd firehose-nozzle && GOWORK=off go list -deps -f '{{with .Module}}{{.Path}}{{with .Version}} {{.}}{{end}} {{end}}{{if .Module}}{{.ImportPath}}{{end}}' . \
	| awk 'NF {m = $$1; v = NF == 3 ? " " $$2 : ""; print "module " m v; print "  package " $$NF}' | LC_ALL=C sort -u

deps: ## the SDK depends on nothing new (firehose-nozzle/deps.txt)
	@($(list_deps)) | diff firehose-nozzle/deps.txt - || { \
	  echo 'the dependencies of the SDK changed; if that is meant, run make generate and commit deps.txt'; exit 1; }

fuzz: ## every fuzz target for FUZZTIME (60s)
	@for d in $$(grep -rl --include='*_test.go' '^func Fuzz' $(MODULES) | xargs -n1 dirname | sort -u); do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$d/*_test.go); do \
	    echo "fuzz $$d $$t $(FUZZTIME)"; \
	    (cd $$d && go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) .) || exit 1; \
	  done; \
	done

bench: ## all Go benchmarks, then the whole pipeline under load; table and bench.json in bin/bench
	@mkdir -p $(BENCHOUT)
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(TESTED) | tee $(BENCHOUT)/go.txt
	cd integration && go run ./cmd/loadtool -json ../$(BENCHOUT)/bench.json suite | tee ../$(BENCHOUT)/pipeline.txt

$(TOOLS)/buf: tools/proto/go.mod
	cd tools/proto && GOWORK=off go build -o ../../$(TOOLS)/ tool
	@touch $(TOOLS)/buf

$(TOOLS)/golangci-lint: tools/lint/go.mod
	cd tools/lint && GOWORK=off go build -o ../../$(TOOLS)/ tool
	@touch $@

$(TOOLS)/cyclonedx-gomod: tools/sbom/go.mod
	cd tools/sbom && GOWORK=off go build -o ../../$(TOOLS)/ tool
	@touch $@

$(TOOLS)/govulncheck: tools/vuln/go.mod
	cd tools/vuln && GOWORK=off go build -o ../../$(TOOLS)/ tool
	@touch $@
