# Metronome's build. `make help` lists the targets. Objects go to build/VARIANT; nothing is written elsewhere.

VARIANT ?= release
BUILD   := build/$(VARIANT)

CC  ?= cc
CXX ?= c++
PKG := libevent libevent_pthreads libcjson libpcre2-8

# One arithmetic everywhere: the compiler may not fuse or reorder what the kernels spell out.
FP       := -ffp-contract=off -fno-fast-math
WARN     := -Wall -Wextra -Werror -Wshadow -Wpointer-arith -Wvla
CPPFLAGS += -I. -D_GNU_SOURCE -MMD -MP $(shell pkg-config --cflags $(PKG))
CFLAGS   += -std=gnu17 -g $(FP) $(WARN) -Wstrict-prototypes -Wmissing-prototypes -fno-math-errno -pthread
CXXFLAGS += -std=c++17 -g -O1 $(FP) -Wall -Wextra -Werror -pthread
LDLIBS   += $(shell pkg-config --libs $(PKG)) -lm -pthread

SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread -fno-omit-frame-pointer
OPT_release := -O3
OPT_asan    := -O1
OPT_tsan    := -O1
SAN      := $(SAN_$(VARIANT))
CFLAGS   += $(OPT_$(VARIANT)) $(SAN)
CXXFLAGS += $(SAN)
LDFLAGS  += $(SAN)

VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

# A room's sources are the C files in it and in its folders. Lowest first.
ROOMS := base kernels offload models scheduler server bench
sources = $(shell find $(1) -name '*.c' 2>/dev/null | LC_ALL=C sort)
objects = $(patsubst %.c,$(BUILD)/%.o,$(call sources,$(1)))
MAIN := $(BUILD)/server/main.o

.DEFAULT_GOAL := all
.PHONY: all help
all: $(BUILD)/metronome

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---- objects ----

# Kernel files carry their instruction set in their names; the rest runs on any x86-64 (or anything else).
$(BUILD)/%_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c
$(BUILD)/%_avx2.o: CFLAGS += -mavx2 -mfma -mf16c
$(BUILD)/server/version.o: CPPFLAGS += -DMETRONOME_VERSION='"$(VERSION)"' -DMETRONOME_COMMIT='"$(COMMIT)"'

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

define room_library
$(BUILD)/lib$(1).a: $(filter-out $(MAIN),$(call objects,$(1)))
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach room,$(ROOMS),$(eval $(call room_library,$(room))))

# What a room may link: itself and what lies below it, highest first (the linker's order).
LIBS_base      := $(BUILD)/libbase.a
LIBS_kernels   := $(BUILD)/libkernels.a $(LIBS_base)
LIBS_offload   := $(BUILD)/liboffload.a $(LIBS_kernels)
LIBS_models    := $(BUILD)/libmodels.a $(LIBS_offload)
LIBS_scheduler := $(BUILD)/libscheduler.a $(LIBS_models)
LIBS_server    := $(BUILD)/libserver.a $(LIBS_scheduler)
LIBS_bench     := $(BUILD)/libbench.a $(LIBS_scheduler)

$(BUILD)/metronome: $(MAIN) $(BUILD)/libserver.a $(BUILD)/libbench.a $(LIBS_scheduler)
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# ---- unit tests: tests/unit/ROOM/NAME_test.cc becomes build/VARIANT/tests/ROOM/NAME_test ----

UNIT_TESTS := $(patsubst tests/unit/%.cc,$(BUILD)/tests/%,$(shell find tests/unit -name '*_test.cc' | LC_ALL=C sort))
.PHONY: unit
unit: $(UNIT_TESTS)

$(BUILD)/tests/%.o: tests/unit/%.cc
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

define room_tests
$(BUILD)/tests/$(1)/%_test: $(BUILD)/tests/$(1)/%_test.o $(LIBS_$(1))
	$(CXX) $(LDFLAGS) $$^ -lgtest_main -lgtest $(LDLIBS) -o $$@
endef
$(foreach room,$(ROOMS),$(eval $(call room_tests,$(room))))

.PRECIOUS: $(BUILD)/%.o $(BUILD)/tests/%.o
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
