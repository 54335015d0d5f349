# Metronome's build. `make help` lists the targets. Objects go to build/VARIANT; nothing is written elsewhere.
# V=1 prints the commands whole; VARIANT is release, asan (with UBSan), tsan or fuzz. CUDA=1 adds the cuda device, with
# nvcc from CUDA_HOME, and CUDA=emulated adds it on the emulator of tests/cuemu; both build into folders of their own.
# With CUDA=1, NVTX=1 names iterations, layers and copies for NVIDIA's profilers.

VARIANT ?= release
CUDA    ?= 0
NVTX    ?= 0
BUILD   := build/$(VARIANT)$(if $(filter 1,$(CUDA)),-cuda)$(if $(filter emulated,$(CUDA)),-cuemu)
# What the cuda device changes nothing of is compiled once, and linked with and without it.
PLAIN   := $(if $(filter 1,$(NVTX)),$(BUILD),build/$(VARIANT))

CC  ?= cc
CXX ?= c++
PKG := libevent libevent_pthreads libcjson libpcre2-8 libutf8proc
ifeq ($(VARIANT),fuzz)
override CC := clang
endif

# One arithmetic everywhere: the compiler may not fuse or reorder what the kernels spell out.
FP       := -ffp-contract=off -fno-fast-math
WARN     := -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wvla
CPPFLAGS += -I. -D_GNU_SOURCE -MMD -MP $(shell pkg-config --cflags $(PKG))
CFLAGS   += -std=gnu17 -g $(FP) $(WARN) -Wstrict-prototypes -Wmissing-prototypes -fno-math-errno -pthread
CXXFLAGS += -std=c++17 -g1 $(FP) -Wall -Wextra -Werror -pthread
LDLIBS   += $(shell pkg-config --libs $(PKG)) -lm -pthread

comma := ,
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread -fno-omit-frame-pointer
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT_release := -O3
# Where the debugger would find each variable takes minutes to work out for the kernels, instrumented, and is not asked.
OPT_asan    := -O1 -fno-var-tracking
OPT_tsan    := -O1 -fno-var-tracking
OPT_fuzz    := -O1
SAN      := $(SAN_$(VARIANT))
CFLAGS   += $(OPT_$(VARIANT)) $(SAN)
# Tests compile longer than they run: under the sanitizers, which double that, they are not optimized, and it is the
# house whose undefined behaviour is looked for.
CXXFLAGS += $(if $(SAN),-O0,-O1) $(subst address$(comma)undefined,address,$(SAN))
LDFLAGS  += $(SAN)

# Kernel files carry their instruction set in their names; the rest runs on any x86-64 (or anything else).
ISA_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c
ISA_avx2   := -mavx2 -mfma -mf16c

VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

# A room's sources are the C files in it and in its folders, less those of programs of their own. Lowest first.
ROOMS := base kernels offload models scheduler server bench
sources = $(shell find $(1) -name '*.c' -not -path '*/programs/*' -not -path 'kernels/cuda/*' 2>/dev/null | LC_ALL=C sort)
objects = $(patsubst $(PLAIN)/kernels/device.o,$(BUILD)/kernels/device.o,$(patsubst %.c,$(PLAIN)/%.o,$(call sources,$(1))))
MAIN := $(PLAIN)/server/main.o

# $(call say,CC,$@) before a command, and $(Q) at its head: one short line for each, or with V=1 the command.
ifeq ($(V),1)
say = @:
Q :=
else
say = @printf '  %-5s %s\n' '$(1)' '$(2)'
Q := @
endif

.DEFAULT_GOAL := all
.PHONY: all help FORCE
all: $(BUILD)/metronome ## the program: build/release/metronome

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---- objects ----

# Each stamp holds what the commands below depend on besides their files, and is touched only when that changes.
stamp = @mkdir -p $(@D) && { printf '%s\n' '$(1)' | cmp -s - $@ || printf '%s\n' '$(1)' >$@; }
FLAGS = $(CC) $(CXX) $(CPPFLAGS) $(CFLAGS) $(CXXFLAGS) $(LDFLAGS) $(ISA_avx512) $(ISA_avx2)
$(BUILD)/flags.stamp: FORCE
	$(call stamp,$(strip $(FLAGS) $(if $(filter 1 emulated,$(CUDA)),$(CUDA) $(CUDA_CODE))))
ifneq ($(PLAIN),$(BUILD))
$(PLAIN)/flags.stamp: FORCE
	$(call stamp,$(strip $(FLAGS)))
endif
$(PLAIN)/version.stamp: FORCE
	$(call stamp,$(VERSION) $(COMMIT))

# No fuzz target computes: instrumenting the kernels that it is linked with would be most of the time of its build.
KERNEL_CFLAGS = $(if $(filter fuzz,$(VARIANT)),$(filter-out $(SAN),$(CFLAGS)),$(CFLAGS))
$(PLAIN)/%_avx512.o: private CFLAGS := $(KERNEL_CFLAGS) $(ISA_avx512)
$(PLAIN)/%_avx2.o: private CFLAGS := $(KERNEL_CFLAGS) $(ISA_avx2)
# Packing is pure and comes before any stream; under the thread sanitizer it would be most of the time of every test
# that loads a model.
build/tsan/kernels/cpu/pack.o: private CFLAGS += -fno-sanitize=thread
$(PLAIN)/server/version.o: private CPPFLAGS += -DMETRONOME_VERSION='"$(VERSION)"' -DMETRONOME_COMMIT='"$(COMMIT)"'
$(PLAIN)/server/version.o: $(PLAIN)/version.stamp

define c_objects
$(1)/%.o: %.c $(1)/flags.stamp
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$$(CC) $$(CPPFLAGS) $$(CFLAGS) -c $$< -o $$@
endef
$(foreach folder,$(sort $(PLAIN) $(BUILD)),$(eval $(call c_objects,$(folder))))

# ---- the cuda device: kernels/cuda, compiled for GPUs or for the emulator ----

CUDA_HOME ?= /usr/local/cuda
NVCC      := $(CUDA_HOME)/bin/nvcc
# Machine code for Ampere (A100; A10 and RTX 30), Ada and Hopper, and PTX for what comes after. All of it is made from
# one PTX, of the least of them, which is half of the work: nothing of the newer ones is used.
CUDA_LEAST ?= 80
CUDA_ARCHITECTURES ?= 80 86 89 90
space := $() $()
CUDA_CODE := $(subst $(space),$(comma),$(patsubst %,sm_%,$(CUDA_ARCHITECTURES)) compute_$(CUDA_LEAST))
# What ptxas says of every kernel is kept beside the object, for tests/tools/cuda_resources.py.
NVCC_FLAGS := -std=c++17 -O3 -fmad=false -lineinfo -Xptxas -v -gencode 'arch=compute_$(CUDA_LEAST),code=[$(CUDA_CODE)]' \
              -Xcompiler -Wall,-Wextra,-Wno-unused-parameter,-ffp-contract=off

ifneq ($(filter 1 emulated,$(CUDA)),)
CUDA_OBJECTS := $(patsubst %,$(BUILD)/%.o,$(basename $(shell find kernels/cuda -name '*.c' -o -name '*.cu' | LC_ALL=C sort)))
$(BUILD)/kernels/device.o: private CPPFLAGS += -DMETRONOME_CUDA
endif

ifeq ($(CUDA) $(NVTX),1 1)
CPPFLAGS += -DMETRONOME_NVTX -isystem $(CUDA_HOME)/include
endif

ifeq ($(CUDA),1)
$(BUILD)/kernels/cuda/%.o: private CPPFLAGS += -isystem $(CUDA_HOME)/include
LDLIBS += -L$(CUDA_HOME)/lib64 -lcudart_static -lstdc++ -ldl -lrt
$(BUILD)/kernels/cuda/%.o: kernels/cuda/%.cu $(BUILD)/flags.stamp
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)$(NVCC) -I. -MMD -MP -MF $(@:.o=.d) $(NVCC_FLAGS) -c $< -o $@ 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas); exit 1; }
endif

ifeq ($(CUDA),emulated)
# Kernels as C++, for any x86-64 processor of the last ten years: they lean on fused multiply-adds and half floats.
CUEMU_FLAGS := -O2 -Wno-unknown-pragmas -mfma -mf16c
CUEMU_OBJECTS := $(addprefix $(BUILD)/tests/cuemu/,block.o cublas.o graphs.o kernels.o machine.o memory.o names.o nccl.o streams.o)
# tests/cuemu/nccl.cc and cublas.cc stand in for the libraries.
CUDA_OBJECTS := $(filter-out %/nccl_load.o %/cublas_load.o,$(CUDA_OBJECTS))
LDLIBS += -lstdc++
$(BUILD)/kernels/cuda/%.o $(BUILD)/tests/cuemu/%.o: private CPPFLAGS += -Itests/cuemu/include
$(BUILD)/kernels/cuda/%.o: kernels/cuda/%.cu $(BUILD)/flags.stamp
	@mkdir -p $(@D)
	$(call say,C++,$@)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(CUEMU_FLAGS) -x c++ -c $< -o $@
$(BUILD)/tests/cuemu/%.o: tests/cuemu/%.cc $(BUILD)/flags.stamp
	@mkdir -p $(@D)
	$(call say,C++,$@)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(CUEMU_FLAGS) -c $< -o $@
$(BUILD)/tests/cuemu/%_test: $(BUILD)/tests/cuemu/%_test.o $(BUILD)/libkernels.a $(BUILD)/libbase.a
	$(call say,LINK,$@)
	$(Q)$(CXX) $(LDFLAGS) $^ -lgtest_main -lgtest $(LDLIBS) -o $@
endif

define room_library
$(BUILD)/lib$(1).a: $(filter-out $(MAIN),$(call objects,$(1)))$(if $(filter kernels,$(1)), $(CUDA_OBJECTS) $(CUEMU_OBJECTS))
	@mkdir -p $$(@D) && rm -f $$@
	$$(call say,AR,$$@)
	$(Q)ar rcs $$@ $$^
endef
$(foreach room,$(ROOMS),$(eval $(call room_library,$(room))))

# What a room may link: itself and what lies below it, highest first (the linker's order).
LIBS_base      := $(BUILD)/libbase.a
LIBS_kernels   := $(BUILD)/libkernels.a $(LIBS_base)
LIBS_offload   := $(BUILD)/liboffload.a $(LIBS_kernels)
LIBS_models    := $(BUILD)/libmodels.a $(LIBS_offload)
LIBS_scheduler := $(BUILD)/libscheduler.a $(LIBS_models)
LIBS_server    := $(BUILD)/libserver.a $(LIBS_scheduler)
LIBS_bench     := $(BUILD)/libbench.a $(LIBS_server)

$(BUILD)/metronome: $(MAIN) $(LIBS_bench)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# ---- unit tests: tests/unit/ROOM/NAME_test.cc becomes build/VARIANT/tests/ROOM/NAME_test ----

# TESTS narrows the list: make unit TESTS='build/release/tests/base/%'
TESTS ?= %
UNIT_TESTS := $(patsubst tests/unit/%.cc,$(BUILD)/tests/%,$(shell find tests/unit -name '*_test.cc' | LC_ALL=C sort))
.PHONY: unit
unit: $(filter $(TESTS),$(UNIT_TESTS)) ## every unit test's program, not run

# The headers that all of them include, precompiled.
PRELUDE := $(PLAIN)/tests/prelude.h
$(PRELUDE).gch: tests/unit/prelude.h $(PLAIN)/flags.stamp
	@mkdir -p $(@D)
	$(call say,C++,$@)
	$(Q)$(CXX) $(filter-out -MMD -MP,$(CPPFLAGS)) $(CXXFLAGS) -x c++-header $< -o $@
$(PLAIN)/tests/%.o: tests/unit/%.cc $(PLAIN)/flags.stamp $(PRELUDE).gch
	@mkdir -p $(@D)
	$(call say,C++,$@)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -include $(PRELUDE) -c $< -o $@

define room_tests
$(BUILD)/tests/$(1)/%_test: $(PLAIN)/tests/$(1)/%_test.o $(PLAIN)/tests/threads.o $(LIBS_$(1))
	@mkdir -p $$(@D)
	$$(call say,LINK,$$@)
	$(Q)$(CXX) $(LDFLAGS) $$^ -lgtest_main -lgtest $(LDLIBS) -o $$@
endef
$(foreach room,$(ROOMS),$(eval $(call room_tests,$(room))))

ifeq ($(CUDA),emulated)
$(BUILD)/tests/cuemu/iteration_test: $(BUILD)/tests/cuemu/iteration_test.o $(LIBS_scheduler)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(LDFLAGS) $^ -lgtest_main -lgtest $(LDLIBS) -o $@
endif

# ---- fuzz targets: tests/fuzz/NAME_fuzz.c becomes build/fuzz/NAME (VARIANT=fuzz, clang and libFuzzer) ----

FUZZERS := $(patsubst tests/fuzz/%_fuzz.c,$(BUILD)/%,$(shell find tests/fuzz -name '*_fuzz.c' 2>/dev/null | LC_ALL=C sort))
ifeq ($(VARIANT),fuzz)
.PHONY: fuzzers
fuzzers: $(FUZZERS)
$(FUZZERS): $(BUILD)/%: $(PLAIN)/tests/fuzz/%_fuzz.o $(LIBS_bench)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $@
endif

# ---- helpers of the tests: tests/tools/NAME.c becomes build/VARIANT/tools/NAME ----

$(BUILD)/tools/%: $(PLAIN)/tests/tools/%.o $(LIBS_models)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# ---- developers' measurements: bench/programs/NAME_bench.c becomes build/VARIANT/NAME-bench ----

BENCHES := $(patsubst bench/programs/%_bench.c,$(BUILD)/%-bench,$(wildcard bench/programs/*_bench.c))
.PHONY: benches
benches: $(BENCHES) ## every measuring program, not run

.PHONY: kernel-bench
kernel-bench: $(BUILD)/metronome ## how fast the cpu device's kernels run here, against the machine
	$(Q)$< bench ops

# MODEL names the file that it runs.
MODEL ?= .cache/SmolLM2-135M-Instruct.Q4_1.gguf
.PHONY: forward-bench
forward-bench: $(BUILD)/forward-bench ## how fast a model's forward pass runs here
	$(Q)$< '$(MODEL)'
$(BUILD)/forward-bench: $(PLAIN)/bench/programs/forward_bench.o $(LIBS_models)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# COPY_US is the fixed cost of a copy, OUTSIDE the time outside the layers, in layers.
.PHONY: plan-bench
plan-bench: $(BUILD)/plan-bench ## how much of the link the plans use, and what a plan costs to find
	$(Q)$< $(COPY_US) $(OUTSIDE)
$(BUILD)/plan-bench: $(PLAIN)/bench/programs/plan_bench.o $(BUILD)/libbench.a $(LIBS_offload)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

.PHONY: parking-bench
parking-bench: $(BUILD)/parking-bench ## more requests than the KV cache holds: parked or computed again
	$(Q)$< '$(MODEL)'
$(BUILD)/parking-bench: $(PLAIN)/bench/programs/parking_bench.o $(LIBS_scheduler)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

.PHONY: prefix-bench
prefix-bench: $(BUILD)/prefix-bench ## what the prefix cache costs and what it saves
	$(Q)$< '$(MODEL)'
$(BUILD)/prefix-bench: $(PLAIN)/bench/programs/prefix_bench.o $(LIBS_scheduler)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
# SEQUENCES is how many run at once, 256 if not given.
.PHONY: scheduler-bench
scheduler-bench: $(BUILD)/scheduler-bench ## the host's own time an iteration, with hundreds of sequences
	$(Q)$< $(SEQUENCES)
$(BUILD)/scheduler-bench: $(PLAIN)/bench/programs/scheduler_bench.o $(LIBS_scheduler)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(addprefix -Wl$(comma)--wrap=,forward_run forward_wait offload_begin offload_end) $^ $(LDLIBS) -o $@

.PHONY: engine-bench
engine-bench: $(BUILD)/engine-bench ## start, prefill, decode and memory of the whole engine here
	$(Q)$< '$(MODEL)'
$(BUILD)/engine-bench: $(PLAIN)/bench/programs/engine_bench.o $(LIBS_scheduler)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc $^ $(LDLIBS) -o $@

.PHONY: load-bench
load-bench: $(BUILD)/metronome $(BUILD)/tools/sse_spray ## how many events a second the load generator takes
	$(Q)$(PYTHON) bench/tools/load_speed.py --program $(BUILD)/metronome --spray $(BUILD)/tools/sse_spray

# JSON names a file for the figures, SECTIONS narrows them.
.PHONY: offload-bench
offload-bench: $(BUILD)/offload-bench ## what offloading promises and what it keeps, on cpu and sim
	$(Q)$< '$(MODEL)' $(if $(JSON),--json '$(JSON)') $(SECTIONS)
$(BUILD)/offload-bench: $(PLAIN)/bench/programs/offload_bench.o $(LIBS_bench)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Some minutes; the simulated figures are the same on every machine.
.PHONY: results
results: $(BUILD)/metronome ## every policy at its best, the paper's figures, the frontiers: docs/results.md
	$(Q)$< bench offload --paper --svg docs --markdown docs/results.md --html $(BUILD)/results.html \
	    --json $(BUILD)/results.json

# What a test compares: bytes, copies, plans and simulated times that must not change unseen.
.PHONY: bench-baseline
bench-baseline: $(BUILD)/metronome ## renews bench/baseline.json, after a change that is meant to change it
	$(Q)$< bench counts --json bench/baseline.json

# SVG says where to draw the link that slows.
SVG ?= $(BUILD)/offload-drop.svg
.PHONY: slo-show
slo-show: $(BUILD)/metronome ## two classes of promises under overload with the demo model, and a reload that goes wrong
	$(Q)$(PYTHON) scripts/slo_show.py --program $(BUILD)/metronome --svg '$(SVG)'

.PHONY: offload-show
offload-show: $(BUILD)/metronome ## the demo model with half of its weights in host memory, and a link that slows
	$(Q)$(PYTHON) scripts/offload_show.py --program $(BUILD)/metronome --svg '$(SVG)'

# On a machine with a GPU: make CUDA=1 gpu-bench; figures and pages go to RESULTS. QUICK=quick shows that its kernels run,
# on the emulator too, and leaves the rest out. PEERS is for scripts/peers.py: PEERS='--model DIRECTORY --batch 16'.
RESULTS ?= docs/results
# PACKED=build/gpu-pack runs what `gpu_check.py --packed` unpacked there, and builds nothing.
GPU_BUILD := $(or $(PACKED),$(BUILD))
gpu-bench: export LD_LIBRARY_PATH := $(if $(PACKED),$(PACKED)/lib:)$(LD_LIBRARY_PATH)
.PHONY: gpu-bench
ifneq ($(QUICK),)
gpu-bench: $(if $(PACKED),,$(BUILD)/metronome)
	$(Q)$(GPU_BUILD)/metronome bench ops --device cuda --invariant --quick
	$(Q)$(GPU_BUILD)/metronome bench ops --device cuda --quick
else
gpu-bench: $(if $(PACKED),,$(BUILD)/metronome $(BUILD)/engine-bench) ## kernels, link, a whole model on a GPU, and other systems: docs/peers.md
	$(Q)mkdir -p $(RESULTS)
	$(Q)$(GPU_BUILD)/metronome bench ops --device cuda --invariant --json $(RESULTS)/gpu-ops-invariant.json --html $(RESULTS)/gpu-ops-invariant.html
	$(Q)$(GPU_BUILD)/metronome bench ops --device cuda --json $(RESULTS)/gpu-ops.json --html $(RESULTS)/gpu-ops.html
	$(Q)$(GPU_BUILD)/metronome bench link --device cuda --json $(RESULTS)/gpu-link.json --html $(RESULTS)/gpu-link.html
	$(Q)$(GPU_BUILD)/engine-bench '$(MODEL)' 0 $(RESULTS)/gpu-engine.json cuda
	$(Q)$(GPU_BUILD)/metronome bench offload --device cuda --weights '$(MODEL)' --json $(RESULTS)/gpu-offload.json --html $(RESULTS)/gpu-offload.html
	$(Q)$(PYTHON) scripts/peers.py --program $(GPU_BUILD)/metronome --json $(RESULTS)/gpu-peers.json $(PEERS)
endif

# DEVICE and RANKS say what adds up: make CUDA=1 ranks-bench DEVICE=cuda RANKS=4 on a machine with as many GPUs. SUMS is
# for bench/programs/ranks_bench.c: SUMS=nccl, SUMS='peer shares=1'.
DEVICE ?= cpu
RANKS ?= 2
.PHONY: ranks-bench
ranks-bench: $(BUILD)/ranks-bench ## what sums over ranks take, alone and beside copies from host memory
	$(Q)$< $(DEVICE) $(RANKS) $(QUICK) $(SUMS)
$(BUILD)/ranks-bench: $(PLAIN)/bench/programs/ranks_bench.o $(LIBS_kernels)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# ---- the checks: tests/run.py knows how each is run; with no names it runs them all ----

PYTHON ?= python3
CHECK = @CC='$(CC)' CXX='$(CXX)' $(PYTHON) tests/run.py
# SOAK_SECONDS is how long the server is kept overloaded.
SOAK_SECONDS ?= 600
.PHONY: soak
soak: $(BUILD)/metronome $(BUILD)/tests/scheduler/property_test ## thousands of seeds, an hour of overload on sim, ten minutes of it on cpu
	$(Q)METRONOME_PROPERTY_SEEDS=20000 $(BUILD)/tests/scheduler/property_test
	$(Q)$(PYTHON) tests/tools/soak.py --seconds $(SOAK_SECONDS)

.PHONY: test asan tsan cuemu cuda cuda-resources gpu-pack gpu-check fuzz house format format-check tidy e2e demo
test: ## every test there is (scripts/test does it from a fresh machine)
	$(CHECK)
asan: ## unit tests under the address and undefined-behaviour sanitizers
	$(CHECK) asan
tsan: ## unit tests of the rooms with threads under the thread sanitizer
	$(CHECK) tsan
cuemu: ## the cuda device and every kernel on the emulator; no GPU is needed
	$(CHECK) cuemu
cuda: ## nvcc compiles everything for every architecture (make CUDA=1 builds the program; NVTX=1: with ranges for profilers)
	$(CHECK) cuda
cuda-resources: ## what every kernel takes, into docs/cuda-resources.md
	@$(MAKE) --no-print-directory VARIANT=release CUDA=1 build/release-cuda/libkernels.a
	$(Q)$(PYTHON) tests/tools/cuda_resources.py build/release-cuda/kernels/cuda --write
gpu-pack: build/gpu-pack.tar.xz ## gpu-check's programs and libraries, for a machine without compiler and network
build/gpu-pack.tar.xz: FORCE
	$(Q)$(PYTHON) tests/tools/gpu_check.py --pack $@
gpu-check: ## on a machine with a GPU: kernels, models, offloading and the demo on it
	$(Q)$(PYTHON) tests/tools/gpu_check.py
fuzz: ## every fuzz target, on its seeds and for a fixed short time
	$(CHECK) fuzz
e2e: ## the program as its users meet it
	$(CHECK) e2e
house: ## directions of includes, and the other ways of the house
	$(CHECK) house
tidy: ## clang-tidy
	$(CHECK) tidy
format-check: ## is everything formatted?
	$(CHECK) format
format: ## reformat in place
	$(Q)$(PYTHON) tests/tools/house.py --list | grep -E '\.(c|h|cc|cuh?)$$' | xargs clang-format -i
demo: ## serve a small model and stream a completion from it
	@sh scripts/demo

# ---- installing ----

PREFIX ?= /usr/local
.PHONY: install uninstall clean
install: all ## to PREFIX (/usr/local), under DESTDIR
	install -D -m 755 $(BUILD)/metronome '$(DESTDIR)$(PREFIX)/bin/metronome'
	cd configs && find . -type f -exec install -D -m 644 {} '$(abspath $(DESTDIR)$(PREFIX))/share/metronome/configs/{}' \;
uninstall: ## what install put there
	rm -f '$(DESTDIR)$(PREFIX)/bin/metronome'
	rm -rf '$(DESTDIR)$(PREFIX)/share/metronome'
clean: ## removes build/
	rm -rf build

.PRECIOUS: $(BUILD)/%.o $(PLAIN)/%.o $(PLAIN)/tests/%.o $(BUILD)/tests/cuemu/%.o
-include $(shell find $(sort $(BUILD) $(PLAIN)) -name '*.d' 2>/dev/null)
