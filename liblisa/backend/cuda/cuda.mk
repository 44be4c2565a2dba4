# The CUDA backend: a module of its own, which liblisa.so finds at run time and does not need.
# Included by the Makefile; nothing here is looked at before `make cuda`.
#
# Variables a builder may set: NVCC, NVCCFLAGS (appended to ours), CUDA_ARCHS (compute capabilities;
# of the last one there is PTX too, which the driver compiles for newer devices).
NVCC ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc) nvcc)
CUDA_ARCHS ?= 80 86 89 90

cuda_module := $(B)/lisa/liblisa-cuda.so
cuda_sources := $(sort $(wildcard liblisa/backend/cuda/*.cpp liblisa/backend/cuda/*.cu))
cuda_objects := $(cuda_sources:%=$(B)/obj/%.o)

cuda_newest = $(lastword $(CUDA_ARCHS))
cuda_code = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
    -gencode arch=compute_$(cuda_newest),code=compute_$(cuda_newest)
# No multiplication and addition become one unless a kernel says so (fmaf).
cuda_language = -std=c++17 -O3 -fmad=false -Iinclude -Iliblisa
cuda_flags = $(cuda_language) $(cuda_code) \
    -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-ffp-contract=off $(NVCCFLAGS)
# The runtime is inside, and of it and of C++ nothing is to be seen or to be looked for.
cuda_link = -shared -cudart static $(cuda_code) -Xlinker --version-script=liblisa/backend/cuda/cuda.map \
    -Xlinker --exclude-libs=ALL,--as-needed,-z,defs,-z,relro,-z,noexecstack \
    -Xcompiler -static-libstdc++,-static-libgcc

# Asked for only where something is built: installing what is there needs none.
need_nvcc = $(if $(shell command -v '$(NVCC)'),,$(error $(NVCC) not found: install NVIDIA's CUDA \
    toolkit, or set NVCC))

.PHONY: cuda install-cuda uninstall-cuda
cuda: $(cuda_module)

$(cuda_objects): $(B)/obj/%.o: % liblisa/backend/cuda/cuda.mk
	$(need_nvcc)
	@mkdir -p $(@D)
	$(call say,NVCC)$(NVCC) $(cuda_flags) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

$(cuda_module): $(cuda_objects) liblisa/backend/cuda/cuda.map
	$(need_nvcc)
	@mkdir -p $(@D)
	$(call say,LD)$(NVCC) $(cuda_link) -o $@ $(cuda_objects)

install-cuda: $(cuda_module)
	$(INSTALL) -d '$(DESTDIR)$(LIBDIR)/lisa'
	$(INSTALL) -m 755 $< '$(DESTDIR)$(LIBDIR)/lisa/liblisa-cuda.so'

uninstall-cuda:
	rm -f '$(DESTDIR)$(LIBDIR)/lisa/liblisa-cuda.so'
	-rmdir '$(DESTDIR)$(LIBDIR)/lisa' 2>/dev/null || :
