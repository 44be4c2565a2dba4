# cuda.mk - the CUDA backend on the host device: kernels and all, without a GPU.
#
# A fragment of the top Makefile, whose B, say, check_cflags and check_libs it uses.
# Builders may set
#   CUDA_HOME  the toolkit, of which headers alone are needed
#   CXX_HOST   clang++, the compiler of kernels as C++
#
# It gives, for each lane (host; asan: with AddressSanitizer and UBSan; race: every access of a
# kernel is looked at), in $(B)/cuda/LANE:
#   libhostdevice.so   the device (tests/cuda/host);  libcublas.so.13 on it
#   liblisa-cuda.so    the backend's module
#   test_hostdevice    whether the device finds planted errors, and only those
# The module and libcublas.so.13 look for libhostdevice.so beside them (RPATH): one process has one
# device. cuda_host_missing says why none of it can be built, and is empty where it can;
# cuda_asan_preload is the library that a program needs to load the asan lane's module.

CUDA_HOME ?= /usr/local/cuda
CXX_HOST ?= clang++

cuda_host_missing := $(if $(wildcard $(CUDA_HOME)/include/cuda_runtime_api.h),,the headers of \
    CUDA are not in $(CUDA_HOME)/include)
cuda_host_missing := $(strip $(cuda_host_missing) $(if $(shell command -v $(CXX_HOST) 2>/dev/null \
    ),,$(CXX_HOST) is not installed))

hostcuda_lanes := host asan race
hostcuda_dir = $(B)/cuda

hostcuda_runtime_sources := $(sort $(wildcard tests/cuda/host/*.cpp))
hostcuda_module_sources := $(sort $(wildcard liblisa/backend/cuda/*.cu liblisa/backend/cuda/*.cpp))
hostcuda_planted_sources := tests/cuda/planted.cu tests/cuda/host/operations.cu \
    tests/cuda/test_hostdevice.cpp

# ---- flags ------------------------------------------------------------------------------------

hostcuda_warnings := -Wall -Wextra -Wshadow -Wcast-qual -Wno-pass-failed
hostcuda_includes = -Itests/cuda/host -Iinclude -Iliblisa -isystem $(CUDA_HOME)/include
hostcuda_common = -g -ffp-contract=off -fno-strict-aliasing -fPIC -fvisibility=hidden \
    -fvisibility-inlines-hidden -D_GNU_SOURCE -DLISA_HOST_DEVICE -DLISA_BUILDING $(check_cflags) \
    $(hostcuda_warnings) $(hostcuda_includes)

hostcuda_optimise_host := -O2
hostcuda_optimise_asan := -O1
hostcuda_optimise_race := -O2
hostcuda_sanitize_asan := -fsanitize=address,undefined -fno-sanitize-recover=all \
    -fno-omit-frame-pointer
# A program that was not compiled so runs the asan lane's module with this preloaded.
cuda_asan_preload = $(if $(cuda_host_missing),,$(eval cuda_asan_preload := $$(shell $(CXX_HOST) \
    -print-file-name=libclang_rt.asan-$$(shell uname -m).so))$(cuda_asan_preload))
hostcuda_link_asan = -shared-libasan -Wl,-rpath,$(dir $(cuda_asan_preload))
# The sanitizer's dlopen does not look beside the module: its libcublas is loaded with it.
hostcuda_module_asan := -Wl,--no-as-needed -l:libcublas.so.13
# The hooks are the host device's own; whole accesses, as they stand in the source.
hostcuda_kernels_race := -O1 -fno-vectorize -fno-slp-vectorize -fsanitize=thread \
    -mllvm -tsan-instrument-func-entry-exit=0 -mllvm -tsan-instrument-atomics=0
hostcuda_runtime_race := -DHOSTDEVICE_RACE
hostcuda_wrap_race := -Wl,--wrap=memcpy,--wrap=memmove,--wrap=memset

hostcuda_flags = $(hostcuda_optimise_$(1)) $(hostcuda_common) $(hostcuda_sanitize_$(1))
hostcuda_link = $(CXX_HOST) $(hostcuda_sanitize_$(1)) $(hostcuda_link_$(1)) -shared -o $@ \
    $(filter %.o,$^) \
    -Wl,-soname,$(@F) -Wl,-rpath,'$$ORIGIN' -Wl,--disable-new-dtags

# ---- one lane ---------------------------------------------------------------------------------

hostcuda_objects = $(addsuffix .o,$(addprefix $(hostcuda_dir)/$(1)/obj/,$(2)))
hostcuda_lane_runtime = $(filter-out tests/cuda/host/hostcublas.cpp \
    tests/cuda/host/$(if $(filter race,$(1)),no_race,race%).cpp,$(hostcuda_runtime_sources))

define hostcuda_lane
$(hostcuda_dir)/$(1)/obj/%.cu.o: %.cu tests/cuda/cuda.mk
	@mkdir -p $$(@D)
	$$(call say,CXX)$(CXX_HOST) -x c++ -std=c++17 $$(call hostcuda_flags,$(1)) \
	    $(hostcuda_kernels_$(1)) -MMD -MP -c -o $$@ $$<

$(hostcuda_dir)/$(1)/obj/%.cpp.o: %.cpp tests/cuda/cuda.mk
	@mkdir -p $$(@D)
	$$(call say,CXX)$(CXX_HOST) -std=c++17 $$(call hostcuda_flags,$(1)) $(hostcuda_runtime_$(1)) \
	    -MMD -MP -c -o $$@ $$<

$(hostcuda_dir)/$(1)/libhostdevice.so: \
    $(call hostcuda_objects,$(1),$(call hostcuda_lane_runtime,$(1)))
	$$(call say,LD)$$(call hostcuda_link,$(1)) -ldl -lpthread

$(hostcuda_dir)/$(1)/libcublas.so.13: $(call hostcuda_objects,$(1),tests/cuda/host/hostcublas.cpp) \
    | $(hostcuda_dir)/$(1)/libhostdevice.so
	$$(call say,LD)$$(call hostcuda_link,$(1)) -L$$(@D) -lhostdevice

$(hostcuda_dir)/$(1)/liblisa-cuda.so: $(call hostcuda_objects,$(1),$(hostcuda_module_sources)) \
    liblisa/backend/cuda/cuda.map $(hostcuda_dir)/$(1)/libhostdevice.so \
    | $(hostcuda_dir)/$(1)/libcublas.so.13
	$$(call say,LD)$$(call hostcuda_link,$(1)) -L$$(@D) -lhostdevice $(hostcuda_module_$(1)) \
	    -ldl -lm \
	    $(hostcuda_wrap_$(1)) -Wl,--version-script=liblisa/backend/cuda/cuda.map

$(hostcuda_dir)/$(1)/test_hostdevice: $(call hostcuda_objects,$(1),$(hostcuda_planted_sources)) \
    $(hostcuda_dir)/$(1)/libhostdevice.so $(hostcuda_dir)/$(1)/libcublas.so.13
	$$(call say,LD)$(CXX_HOST) $(hostcuda_sanitize_$(1)) $$(hostcuda_link_$(1)) -o $$@ \
	    $$(filter %.o,$$^) \
	    $(hostcuda_wrap_$(1)) -L$$(@D) -lhostdevice -l:libcublas.so.13 -Wl,-rpath,'$$$$ORIGIN' \
	    $$(check_libs) -ldl -lpthread
endef

ifeq ($(cuda_host_missing),)
$(foreach lane,$(hostcuda_lanes),$(eval $(call hostcuda_lane,$(lane))))
endif

-include $(shell test -d $(hostcuda_dir) && find $(hostcuda_dir) -name '*.d')
