# ptx.mk - the kernels as PTX, and the interpreter that runs them without a GPU.
#
# A fragment of the top Makefile, whose B and say it uses, beside what the backend's cuda.mk and
# that of the host device have: NVCC makes the PTX, CXX_HOST compiles the interpreter.
#
# It gives, in $(B)/cuda/ptx:
#   test_ptx         the interpreter's own tests; with files of PTX, whether it knows all of them
#   NAME.ptx         nvcc's PTX of each source of the backend
#   libhostptx.so    preloaded with PTX_DIRECTORY, it runs the host device's kernels as that PTX
# ptx_missing says why they cannot be built, and is empty where they can; ptx_lane is all of them,
# empty where they cannot.

ptx_dir = $(B)/cuda/ptx
ptx_missing := $(if $(shell command -v $(NVCC)),$(cuda_host_missing),nvcc is not installed)

ptx_sources := $(sort $(wildcard tests/cuda/ptx/*.cpp))
ptx_test_sources := $(filter-out tests/cuda/ptx/host.cpp,$(ptx_sources))
ptx_host_sources := $(filter-out tests/cuda/ptx/test%,$(ptx_sources))
ptx_object = $(patsubst tests/cuda/ptx/%.cpp,$(ptx_dir)/obj/%.o,$(1))

# Tests are many small templates, which an optimiser takes minutes for and nobody needs fast. A
# product and a sum are two roundings here: what is one is fma in the PTX.
ptx_cxxflags = -std=c++17 $(if $(findstring test,$(1)),-O0,-O2 -g) -fPIC -fvisibility=hidden \
    -ffp-contract=off -D_GNU_SOURCE -Wall -Wextra -Wshadow -Wno-pass-failed \
    -isystem $(CUDA_HOME)/include

$(ptx_dir)/obj/%.o: tests/cuda/ptx/%.cpp tests/cuda/ptx.mk
	@mkdir -p $(@D)
	$(call say,CXX)$(CXX_HOST) $(call ptx_cxxflags,$*) -MMD -MP -c -o $@ $<

$(ptx_dir)/test_ptx: $(call ptx_object,$(ptx_test_sources))
	$(call say,LD)$(CXX_HOST) -o $@ $^

$(ptx_dir)/libhostptx.so: $(call ptx_object,$(ptx_host_sources)) $(B)/cuda/host/libhostdevice.so
	$(call say,LD)$(CXX_HOST) -shared -o $@ $(filter %.o,$^) -Wl,-z,defs -L$(B)/cuda/host \
	    -lhostdevice -Wl,-rpath,'$$ORIGIN/../host'

$(ptx_dir)/%.ptx: liblisa/backend/cuda/%.cu tests/cuda/ptx.mk
	@mkdir -p $(@D)
	$(call say,NVCC)$(NVCC) $(cuda_language) -arch=compute_80 -MMD -MP -MF $(@:.ptx=.d) -MT $@ -ptx -o $@ $<

ifeq ($(ptx_missing),)
ptx_lane := $(ptx_dir)/test_ptx $(ptx_dir)/libhostptx.so $(patsubst \
    liblisa/backend/cuda/%.cu,$(ptx_dir)/%.ptx,$(sort $(wildcard liblisa/backend/cuda/*.cu)))
endif

-include $(shell test -d $(ptx_dir) && find $(ptx_dir) -name '*.d')
