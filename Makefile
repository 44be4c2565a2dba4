# liblisa: build, tests and installation.  `make help` lists the targets.
#
# Variables a builder may set: CC CXX CFLAGS CXXFLAGS CPPFLAGS LDFLAGS (appended to ours),
# PREFIX LIBDIR INCLUDEDIR DESTDIR, V=1 (show commands), JOBS (tests at once), and
#   SYSTEM_LIBS=1   link the system's shared jansson and BLAS instead of private copies
#   BLAS=system     the system's shared BLAS alone
# Sources are found by folder: a new file needs no change here.

MAKEFLAGS += -r
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DOCDIR ?= $(PREFIX)/share/doc/liblisa
INSTALL ?= install
OBJCOPY ?= objcopy
PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SYSTEM_LIBS ?= 0
BLAS ?= $(if $(filter 1,$(SYSTEM_LIBS)),system,private)
VARIANT ?= release
B := build/$(VARIANT)

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' '$(1)' '$(patsubst $(B)/%,%,$@)';)

# ---- version ----------------------------------------------------------------------------------

version_of = $(shell sed -n 's/^.define LISA_$(1) "*\([0-9.]*\)"*$$/\1/p' include/lisa/version.h)
VERSION := $(call version_of,VERSION_STRING)
ABI := $(call version_of,ABI_VERSION)
soname := liblisa.so.$(ABI)
realname := $(soname).$(call version_of,VERSION_MINOR).$(call version_of,VERSION_PATCH)

# ---- flags ------------------------------------------------------------------------------------

warnings := -Wall -Wextra -Wshadow -Wcast-qual -Wundef -Wvla
c_warnings := $(warnings) -Wstrict-prototypes
optimise := -O3
sanitize :=
ifeq ($(VARIANT),asan)
optimise := -O1
sanitize := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
ifeq ($(VARIANT),ubsan)
optimise := -O1
sanitize := -fsanitize=undefined -fno-sanitize-recover=all
endif
ifeq ($(VARIANT),tsan)
optimise := -O1
sanitize := -fsanitize=thread
endif
ifeq ($(VARIANT),coverage)
optimise := -O1
sanitize := --coverage -fprofile-update=prefer-atomic
endif

numeric := -ffp-contract=off
base := $(optimise) -g $(numeric) $(sanitize)
# Asked for once, and only where a test is built.
check_cflags = $(eval check_cflags := $$(shell pkg-config --cflags check))$(check_cflags)
check_libs = $(eval check_libs := $$(shell pkg-config --libs check))$(check_libs)

lib_cflags = -std=c11 $(base) -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections \
    $(c_warnings) $(CFLAGS)
lib_cppflags = -Iinclude -Iliblisa -D_GNU_SOURCE -DLISA_BUILDING $(BLAS_CPPFLAGS) $(CPPFLAGS)
test_cflags = -std=c11 $(base) $(c_warnings) $(CFLAGS)
test_cppflags = -Iinclude -Itests -Itests/support -D_GNU_SOURCE $(check_cflags) \
    -DLISA_TEST_DATA='"$(abspath tests/data)"' $(CPPFLAGS)
example_cflags = -std=c11 $(base) $(c_warnings) $(CFLAGS)
example_cxxflags = -std=c++11 $(base) $(warnings) $(CXXFLAGS)

# ---- third parties ----------------------------------------------------------------------------
# A private copy is one relocatable object: what wraps and renames it touches nothing else.
#
# The fragment says how OpenBLAS is linked:
#   BLAS_ARCHIVE    the static library (private)
#   BLAS_FUNCTIONS  cblas functions that the backend calls (private)
#   BLAS_WRAP       symbols of it that the backend defines anew as __wrap_NAME (private)
#   BLAS_LIBS       link flags (system);  BLAS_CPPFLAGS  compile flags (both)
blas_mk := $(wildcard liblisa/backend/cpu/blas.mk)
-include $(blas_mk)

jansson_archive = $(shell $(CC) -print-file-name=libjansson.a)
third := $(if $(filter 1,$(SYSTEM_LIBS)),,$(B)/third/jansson.o)
third += $(if $(filter private,$(BLAS)),$(if $(BLAS_ARCHIVE),$(B)/third/blas.o))
third := $(strip $(third))
system_libs := $(if $(filter 1,$(SYSTEM_LIBS)),-ljansson) $(if $(filter system,$(BLAS)),$(BLAS_LIBS))
libs = $(strip $(system_libs)) -lpthread -ldl -lm

# ---- sources ----------------------------------------------------------------------------------

lib_sources := $(sort $(shell find liblisa -name '*.c' -not -path 'liblisa/backend/cuda/*'))
lib_objects := $(lib_sources:%.c=$(B)/obj/%.o)
sampler_sources := $(sort $(wildcard liblisa/sampler/*.c liblisa/api/sampler.c liblisa/core/error.c \
    liblisa/core/options.c))
support_sources := $(sort $(wildcard tests/support/*.c) \
    $(filter-out tests/conformance/test_%,$(wildcard tests/conformance/*.c)))
support_objects := $(support_sources:%.c=$(B)/obj/%.o)
headers := $(sort $(wildcard include/lisa/*.h))
sys_headers := $(sort $(wildcard include/lisa/sys/*.h))

internal_suites := unit numerics conformance fault cuda slow
tests_of = $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/$(1)/test_*.c)))
internal_tests := $(foreach s,$(internal_suites),$(call tests_of,$(s)))
api_tests := $(call tests_of,api)
sampler_tests := $(call tests_of,sampler)
slow_tests := $(call tests_of,slow)
cuda_tests := $(call tests_of,cuda)
fast_tests := $(filter-out $(slow_tests) $(cuda_tests),$(internal_tests) $(api_tests) $(sampler_tests))
fast_scripts := $(sort $(filter-out tests/run.sh,$(wildcard tests/*/test_*.sh)))
fast_scripts := $(filter-out tests/slow/%,$(fast_scripts))
slow_scripts := $(sort $(wildcard tests/slow/test_*.sh))
bench_programs := $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/bench/*.c)))
example_programs := $(patsubst %.c,$(B)/%,$(sort $(wildcard examples/*.c))) \
    $(patsubst %.cc,$(B)/%,$(sort $(wildcard examples/*.cc)))

shared := $(B)/liblisa.so
static := $(B)/liblisa.a
internal := $(B)/liblisa-internal.a
support := $(B)/libsupport.a

# ---- stamps: a changed flag or a changed list of sources rebuilds ------------------------------

no_build := clean help uninstall uninstall-cuda lint cppcheck analyze format
dry_run := $(findstring n,$(firstword -$(MAKEFLAGS)))
ifneq ($(if $(dry_run),,$(filter-out $(no_build),$(or $(MAKECMDGOALS),all))),)
define keep # file, text: written only when different, so that it is newer only after a change
ifneq ($$(file <$(1)),$(strip $(2)))
$$(shell mkdir -p $(dir $(1)))
$$(file >$(1),$(strip $(2)))
endif
endef
$(eval $(call keep,$(B)/flags,$(CC) $(CXX) $(lib_cflags) $(lib_cppflags) \
    $(CXXFLAGS) $(LDFLAGS) $(third) $(libs) $(BLAS_ARCHIVE) $(BLAS_FUNCTIONS) $(BLAS_WRAP)))
$(eval $(call keep,$(B)/sources,$(lib_sources) $(support_sources)))
endif

include liblisa/backend/cuda/cuda.mk
include tests/cuda/cuda.mk
include tests/cuda/ptx.mk
cuda_lane = $(if $(cuda_host_missing),,$(addprefix $(B)/cuda/$(1)/,liblisa-cuda.so test_hostdevice))
cuda_lane_host := $(call cuda_lane,host)
cuda_lane_asan := $(if $(wildcard $(cuda_asan_preload)),$(call cuda_lane,asan))
cuda_lane_race := $(call cuda_lane,race)
cuda_lanes := $(cuda_lane_host) $(cuda_lane_asan) $(cuda_lane_race) $(ptx_lane)
cuda_lane_tests = $(filter %/test_hostdevice %/test_ptx,$(1))

# ---- what is built ----------------------------------------------------------------------------

.PHONY: all static shared examples test bench
all: static shared examples
static: $(static)
shared: $(shared)
examples: $(example_programs)
test: $(fast_tests)

$(B)/obj/liblisa/%.o: liblisa/%.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(lib_cppflags) $(lib_cflags) $(FILE_CFLAGS) -MMD -MP -c -o $@ $<

# Branches are counted as they are written, where no whole suite of kernels runs.
ifeq ($(VARIANT),coverage)
$(filter-out $(B)/obj/liblisa/backend/%,$(lib_objects)): FILE_CFLAGS += -O0
endif

$(B)/obj/tests/api/%.o: tests/api/%.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(test_cppflags) $(test_cflags) -MMD -MP -c -o $@ $<

$(B)/obj/tests/%.o: tests/%.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(test_cppflags) -Iliblisa $(test_cflags) -MMD -MP -c -o $@ $<

$(B)/obj/examples/%.o: examples/%.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(CC) -Iinclude $(CPPFLAGS) $(example_cflags) -MMD -MP -c -o $@ $<

$(B)/obj/examples/%.o: examples/%.cc $(B)/flags
	@mkdir -p $(@D)
	$(call say,CXX)$(CXX) -Iinclude $(CPPFLAGS) $(example_cxxflags) -MMD -MP -c -o $@ $<

# Debian's libjansson.a is not position independent where it names stdin; its one use compares a
# stream that the library never passes, so the name is given to an object of its own. Its malloc is
# ours, which notices failures that jansson does not report.
$(B)/third/jansson.o: $(B)/flags Makefile
	@mkdir -p $(@D)
	@test -e '$(jansson_archive)' || { echo 'libjansson.a not found: install libjansson-dev, or' \
	    'use SYSTEM_LIBS=1' >&2; exit 1; }
	$(call say,LD)$(CC) -r -nostdlib -o $@ -Wl,--whole-archive $(jansson_archive) \
	    -Wl,--no-whole-archive && $(OBJCOPY) --redefine-sym stdin=lisa__jansson_stdin \
	        --redefine-sym malloc=lisa__json_malloc $@ && \
	    echo 'void *lisa__jansson_stdin;' | \
	    $(CC) -fPIC -fvisibility=hidden -x c -c -o $(@D)/stdin.o - && \
	    $(CC) -r -nostdlib -o $@.tmp $@ $(@D)/stdin.o && mv $@.tmp $@

$(filter $(B)/obj/liblisa/backend/cpu/%,$(lib_objects)): $(blas_mk)

$(B)/third/blas.o: $(B)/flags $(blas_mk) Makefile
	@mkdir -p $(@D)
	@test -e '$(BLAS_ARCHIVE)' || { echo '$(BLAS_ARCHIVE) not found: install' \
	    'libopenblas-serial-dev, or use BLAS=system' >&2; exit 1; }
	$(call say,LD)$(CC) -r -nostdlib -o $@ $(BLAS_FUNCTIONS:%=-Wl,-u,%) \
	    $(BLAS_WRAP:%=-Wl,--wrap=%) $(BLAS_ARCHIVE)

# Everything in one object in which only the public names are still global: both libraries are made
# of it, so a static host sees what a dynamic one sees.
public = $(shell sed -n 's/^ *\(lisa_[a-z0-9_]*\);$$/\1/p' liblisa/liblisa.map)
$(B)/liblisa.o: $(lib_objects) $(third) $(B)/sources liblisa/liblisa.map
	$(call say,LD)$(CC) -r -nostdlib -o $@ $(lib_objects) $(third) && \
	    $(OBJCOPY) $(public:%=--keep-global-symbol=%) $@

$(static): $(B)/liblisa.o
	$(call say,AR)rm -f $@ && $(AR) rcsD $@ $<

$(B)/$(realname): $(B)/liblisa.o liblisa/liblisa.map
	$(call say,LD)$(CC) -shared -o $@ $< $(base) $(CFLAGS) $(LDFLAGS) -Wl,-soname,$(soname) \
	    -Wl,--version-script=liblisa/liblisa.map -Wl,-z,defs -Wl,-z,relro -Wl,-z,noexecstack \
	    -Wl,--exclude-libs,ALL -Wl,--gc-sections -Wl,--as-needed $(libs)

$(shared): $(B)/$(realname)
	$(call say,LN)ln -sf $(realname) $(B)/$(soname) && ln -sf $(soname) $@

$(internal): $(lib_objects) $(third) $(B)/sources
	$(call say,AR)rm -f $@ && $(AR) rcsD $@ $(lib_objects) $(third)

$(support): $(support_objects) $(B)/sources
	$(call say,AR)rm -f $@ && $(AR) rcsD $@ $(support_objects)

link_test = $(CC) -o $@ $(filter %.o,$^) $(base) $(CFLAGS) $(LDFLAGS)

$(internal_tests): $(B)/tests/%: $(B)/obj/tests/%.o $(support) $(internal)
	@mkdir -p $(@D)
	$(call say,LD)$(link_test) $(support) $(internal) $(libs) $(check_libs)

$(api_tests): $(B)/tests/%: $(B)/obj/tests/%.o $(support) $(shared)
	@mkdir -p $(@D)
	$(call say,LD)$(link_test) $(support) -L$(B) -llisa -Wl,-rpath,$(abspath $(B)) $(check_libs) \
	    -ldl -lpthread -lm

# The sampler's own objects and nothing else of the library: it needs nobody.
$(sampler_tests): $(B)/tests/%: $(B)/obj/tests/%.o $(sampler_sources:%.c=$(B)/obj/%.o) $(support)
	@mkdir -p $(@D)
	$(call say,LD)$(link_test) $(support) $(check_libs) -lm

$(bench_programs): $(B)/tests/%: $(B)/obj/tests/%.o $(support) $(internal)
	@mkdir -p $(@D)
	$(call say,LD)$(link_test) $(support) $(internal) $(libs)

# Counts what it is about on the device that it is linked with.
$(B)/tests/cuda/roofline: $(B)/obj/tests/cuda/roofline.o $(internal) $(cuda_lane_race)
	@test -z '$(cuda_host_missing)' || { echo '$(cuda_host_missing)' >&2; exit 1; }
	@mkdir -p $(@D)
	$(call say,LD)$(link_test) $(internal) $(libs) -L$(B)/cuda/race -lhostdevice \
	    -Wl,-rpath,$(abspath $(B))/cuda/race

c_examples := $(patsubst %.c,$(B)/%,$(sort $(wildcard examples/*.c)))
$(c_examples): $(B)/examples/%: $(B)/obj/examples/%.o $(shared)
	@mkdir -p $(@D)
	$(call say,LD)$(link_test) -L$(B) -llisa -Wl,-rpath,$(abspath $(B)) -lm

$(filter-out $(c_examples),$(example_programs)): $(B)/examples/%: $(B)/obj/examples/%.o $(shared)
	@mkdir -p $(@D)
	$(call say,LD)$(subst $(CC) -o,$(CXX) -o,$(link_test)) -L$(B) -llisa \
	    -Wl,-rpath,$(abspath $(B)) -lm

# ---- tests ------------------------------------------------------------------------------------

run_tests = BUILD='$(abspath $(B))' CC='$(CC)' CXX='$(CXX)' PYTHON='$(PYTHON)' JOBS='$(JOBS)' \
    CUDA_HOST_MISSING='$(cuda_host_missing)' CUDA_ASAN_PRELOAD='$(cuda_asan_preload)' \
    PTX_MISSING='$(ptx_missing)' NVCC='$(NVCC)' NVCC_LANGUAGE='$(cuda_language)' \
    VARIANT='$(VARIANT)' BLAS='$(BLAS)' SYSTEM_LIBS='$(SYSTEM_LIBS)' MAKE='$(MAKE)' tests/run.sh
has_python_tests := $(if $(wildcard tests/python/test_*.py),python:tests/python)
has_slow_python := $(if $(wildcard tests/slow/test_*.py),python:tests/slow)

.PHONY: check check-slow check-now check-slow-now check-binaries demo asan ubsan tsan valgrind
parallel = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(JOBS))
# What a fresh machine lacks is installed first; a second make then sees it.
check check-slow:
	@.ci/packages
	@.ci/packages abigail-tools || :
	@+$(MAKE) --no-print-directory $(parallel) $@-now

check-now: $(fast_tests) $(cuda_tests) $(cuda_lane_host) $(bench_programs) all
	@$(run_tests) $(fast_tests) $(call cuda_lane_tests,$(cuda_lane_host)) $(fast_scripts) \
	    $(has_python_tests)

check-slow-now: $(slow_tests) $(cuda_tests) $(cuda_lanes) $(B)/tests/fault/test_killed all
	@$(run_tests) $(slow_tests) $(call cuda_lane_tests,$(filter-out $(cuda_lane_host),$(cuda_lanes))) \
	    $(slow_scripts) $(has_slow_python)

# The compiled tests and examples alone: what makes sense under a sanitizer.
check-binaries: $(fast_tests) $(example_programs)
	@$(run_tests) $(fast_tests) tests/install/test_examples.sh

demo:
	@.ci/packages python3-venv
	@+$(MAKE) --no-print-directory $(parallel) all
	@BUILD='$(abspath $(B))' examples/demo/run.sh

asan ubsan tsan coverage: export CK_TIMEOUT_MULTIPLIER = 10
# Where each point of a fault loop takes seconds, one in seven is tried.
asan ubsan tsan: export LISA_TEST_STRIDE = 7
asan ubsan tsan:
	@+$(MAKE) --no-print-directory $(parallel) VARIANT=$@ check-binaries

# Lines and branches that the compiled fast tests reach, for each file of the library, and a total.
# What they do not reach in some rooms is told and explained in tests/support/coverage-uncovered.txt.
.PHONY: coverage coverage-now
coverage:
	@.ci/packages gcovr
	@+$(MAKE) --no-print-directory $(parallel) VARIANT=coverage coverage-now

coverage-now: $(fast_tests) $(example_programs)
	@find $(B) -name '*.gcda' -delete
	@+$(MAKE) --no-print-directory VARIANT=$(VARIANT) check-binaries
	@$(PYTHON) tests/support/coverage.py '$(B)'

# A forked test that ends with memory lost or misused ends with 99, which Check reports. Left out is
# what valgrind's pace makes pointless: products of all sizes, whole suites of kernels, and threads
# side by side, of which it runs one at a time; of whole models' parity all but generation.
valgrind_tests := $(filter-out %/test_cpu_blas %/test_threads,$(call tests_of,unit) $(call tests_of,api)) \
    $(sampler_tests) $(filter %/test_adamw_torch %/test_oom,$(fast_tests))
valgrind_parity := $(filter %/test_family_parity,$(fast_tests))
valgrind_run = CK_TIMEOUT_MULTIPLIER=60 WRAPPER='valgrind -q --error-exitcode=99 --leak-check=full \
    --errors-for-leak-kinds=definite' $(run_tests)
valgrind: $(valgrind_tests) $(valgrind_parity)
	@$(valgrind_run) $(valgrind_tests)
	@CK_RUN_CASE=greedy $(valgrind_run) $(valgrind_parity)

# Another processor: cross-built, under qemu-user.
.PHONY: check-aarch64 check-aarch64-now
check-aarch64:
	@MAKE='$(MAKE)' JOBS='$(JOBS)' tests/support/check_aarch64.sh

check-aarch64-now: $(fast_tests) $(shared)
	@$(run_tests) $(fast_tests)

# BENCH=quick takes minutes; LISA_BENCH_TORCH, LISA_BENCH_TORCH_NEW and LISA_BENCH_7B are said in
# docs/performance.md, BENCH_FLAGS in tests/bench/bench.py.
bench: $(bench_programs) all
	@BUILD='$(abspath $(B))' PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/bench/bench.py \
	    $(if $(filter quick,$(BENCH)),--quick) $(BENCH_FLAGS)

# ---- the CUDA backend -------------------------------------------------------------------------

# These alone, on the device that the processor stands for; on the GPU, if there is one.
.PHONY: check-cuda check-gpu bench-gpu roofline
check-cuda: $(cuda_tests) $(cuda_lanes) $(bench_programs) all
	@$(run_tests) $(call cuda_lane_tests,$(cuda_lanes)) \
	    $(sort $(wildcard tests/cuda/test_*.sh tests/slow/test_cuda_*.sh))

check-gpu: $(cuda_tests) $(cuda_module)
	@LISA_BACKEND_PATH='$(abspath $(dir $(cuda_module)))' $(run_tests) $(cuda_tests)

# The module is built where there is a device to measure; else one line says that there is none.
bench-gpu: $(bench_programs) $(if $(wildcard /dev/nvidia[0-9]* /dev/dxg),$(cuda_module))
	@BUILD='$(abspath $(B))' PYTHONDONTWRITEBYTECODE=1 \
	    LISA_BACKEND_PATH="$(abspath $(dir $(cuda_module)))$${LISA_BACKEND_PATH:+:$$LISA_BACKEND_PATH}" \
	    $(PYTHON) tests/bench/gpu.py $(BENCH_FLAGS) || [ $$? = 77 ]

# What docs/cuda.md says of bytes, FLOPs and the time that they take at least: some ten minutes,
# and 10 GB of memory.
roofline: $(B)/tests/cuda/roofline
	@LISA_BACKEND_PATH='$(abspath $(B))/cuda/race' $<

# ---- style ------------------------------------------------------------------------------------

.PHONY: lint cppcheck analyze format
style_files = $(shell find include liblisa tests examples -name '*.[ch]' -o -name '*.cc' -o -name '*.inc')
lint: cppcheck
	clang-format --dry-run -Werror $(style_files)
	tests/support/limits.sh $(lib_sources)

cppcheck:
	cppcheck --quiet --std=c11 --language=c --enable=warning,portability,performance \
	    --inline-suppr --suppressions-list=tests/support/cppcheck.supp --error-exitcode=1 \
	    -Iinclude -Iliblisa -DLISA_BUILDING -iliblisa/backend/cuda liblisa

# Three analyzers: this, gcc's and clang-tidy, of which check-slow runs the last two.
analyze: cppcheck
	@.ci/packages clang-tidy-14
	@$(run_tests) tests/slow/test_analyze.sh

format:
	clang-format -i $(style_files)

# ---- installation -----------------------------------------------------------------------------

D := $(DESTDIR)
# A directory below the prefix is written relative to it, so that a tree can be moved.
below = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))

.PHONY: install uninstall installcheck
install: $(static) $(shared) $(if $(wildcard $(cuda_module)),install-cuda)
	$(INSTALL) -d '$(D)$(LIBDIR)/pkgconfig' '$(D)$(INCLUDEDIR)/lisa/sys' '$(D)$(DOCDIR)'
	$(INSTALL) -m 644 $(headers) '$(D)$(INCLUDEDIR)/lisa'
	$(INSTALL) -m 644 $(sys_headers) '$(D)$(INCLUDEDIR)/lisa/sys'
	$(INSTALL) -m 644 $(static) '$(D)$(LIBDIR)/liblisa.a'
	$(INSTALL) -m 755 $(B)/$(realname) '$(D)$(LIBDIR)/$(realname)'
	ln -sf $(realname) '$(D)$(LIBDIR)/$(soname)'
	ln -sf $(soname) '$(D)$(LIBDIR)/liblisa.so'
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(call below,$(LIBDIR))|' \
	    -e 's|@INCLUDEDIR@|$(call below,$(INCLUDEDIR))|' -e 's|@VERSION@|$(VERSION)|' \
	    -e 's|@LIBS_PRIVATE@|$(libs)|' pkgconfig/lisa.pc.in \
	    > '$(D)$(LIBDIR)/pkgconfig/lisa.pc'
	$(INSTALL) -m 644 LICENSE '$(D)$(DOCDIR)/LICENSE'
	@for third in $(third:$(B)/third/%.o=%); do $(install_licence); done

# Private copies inside the library bring their licences along.
licence_of_jansson := /usr/share/doc/libjansson-dev/copyright
licence_of_blas := /usr/share/doc/libopenblas-serial-dev/copyright
install_licence = case $$third in jansson) from='$(licence_of_jansson)';; \
    *) from='$(licence_of_blas)';; esac; \
    if [ -e "$$from" ]; then $(INSTALL) -m 644 "$$from" "$(D)$(DOCDIR)/LICENSE.$$third"; \
    else echo "warning: $$from is missing: add the licence of $$third by hand" >&2; fi

uninstall: uninstall-cuda
	rm -f $(headers:include/%='$(D)$(INCLUDEDIR)/%') $(sys_headers:include/%='$(D)$(INCLUDEDIR)/%')
	rm -f '$(D)$(LIBDIR)/liblisa.a' '$(D)$(LIBDIR)/liblisa.so' '$(D)$(LIBDIR)/$(soname)' \
	    '$(D)$(LIBDIR)/$(realname)' '$(D)$(LIBDIR)/pkgconfig/lisa.pc' '$(D)$(DOCDIR)/LICENSE' \
	    '$(D)$(DOCDIR)/LICENSE.jansson' '$(D)$(DOCDIR)/LICENSE.blas'
	-rmdir '$(D)$(INCLUDEDIR)/lisa/sys' '$(D)$(INCLUDEDIR)/lisa' '$(D)$(DOCDIR)' 2>/dev/null || :

installcheck: $(static) $(shared)
	@$(run_tests) tests/install/test_install.sh

# The Python package with the library inside it. It is built in an environment of its own.
# GLIBC=2.28 links it for systems from that C library on, by Zig (pip install ziglang);
# WITH_CUDA=1 puts the CUDA backend beside it, which is as new as this system.
.PHONY: wheel
WHEEL_DIR ?= build/wheel
ZIG ?= $(PYTHON) -m ziglang
machine = $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
wheel_library := $(B)/$(if $(GLIBC),glibc-$(GLIBC)/)$(realname)
wheel_module := $(if $(WITH_CUDA),$(cuda_module))
wheel: $(wheel_library) $(wheel_module)
	$(if $(and $(WITH_CUDA),$(GLIBC)),$(error WITH_CUDA=1 goes with no GLIBC=: nvcc links for this system))
	@PYTHON='$(PYTHON)' WHEEL_MODULE='$(wheel_module)' \
	    WHEEL_PLATFORM='$(if $(GLIBC),manylinux_$(subst .,_,$(GLIBC))_$(machine))' \
	    bindings/python/wheel.sh '$(wheel_library)' '$(WHEEL_DIR)' \
	    $(foreach t,$(third:$(B)/third/%.o=%),$(t)='$(licence_of_$(t))')

# Without Zig's standard libraries, which bring a mathematics and a memcpy of their own: other bits.
$(B)/glibc-%/$(realname): $(B)/liblisa.o liblisa/liblisa.map
	@mkdir -p $(@D)
	$(call say,LD)$(ZIG) cc -target $(machine)-linux-gnu.$* -nostdlib -shared -o $@ $< \
	    -Wl,-soname,$(soname) -Wl,--version-script=liblisa/liblisa.map -Wl,-z,defs \
	    -Wl,-z,relro -Wl,-z,noexecstack -Wl,--gc-sections -Wl,--as-needed $(libs) \
	    -lc $(shell $(CC) -print-libgcc-file-name)

# The promises of docs/abi.md; abi-update writes the present interface down as the promised one.
.PHONY: check-abi abi-update
check-abi: $(static) $(shared)
	@.ci/packages abigail-tools || :
	@$(run_tests) $(sort $(wildcard tests/abi/test_*.sh))

abi-update: $(shared)
	@.ci/packages abigail-tools
	@CC='$(CC)' bash tests/abi/update.sh $(shared)

# ---- the rest ---------------------------------------------------------------------------------

.PHONY: clean help
clean:
	rm -rf build

help:
	@echo 'all static shared examples    build (into build/release; VARIANT=asan and so on beside it)'
	@echo 'check check-slow              run the fast tests, the slow tests'
	@echo 'demo                          fine-tune a real model with LISA; sets up what it needs'
	@echo 'asan ubsan tsan valgrind      the compiled fast tests under a checker'
	@echo 'cuda check-cuda check-gpu     the CUDA module; its tests without a GPU, and on one'
	@echo 'bench-gpu                     steps, rates and memory of a GPU, in one table'
	@echo 'roofline                      what a step asks of a GPU, and the time it takes at least'
	@echo 'check-aarch64                 the compiled fast tests, cross-built, under qemu-user'
	@echo 'coverage analyze              what the compiled fast tests reach; static analyzers'
	@echo 'lint format bench             style and limits, clang-format, benchmarks'
	@echo 'install uninstall installcheck   PREFIX=$(PREFIX) LIBDIR INCLUDEDIR DESTDIR'
	@echo 'wheel                         a Python wheel with the library inside, into build/wheel'
	@echo 'check-abi abi-update clean help   the binary interface: docs/abi.md'

-include $(shell test -d $(B)/obj && find $(B)/obj -name '*.d')
