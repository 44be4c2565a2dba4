# How the CPU backend gets its sgemm. Included by the Makefile, which makes a private copy: one
# relocatable object of the archive's members that BLAS_FUNCTIONS need, with BLAS_WRAP applied to it
# alone, all of its symbols local in the end.
#
# The serial OpenBLAS: it starts no threads. What is wrapped, and by what, is in blas.c: the buffers
# (the serial build hands them out without a lock), the environment, printing and exiting.
BLAS_ARCHIVE = $(shell $(CC) -print-file-name=openblas-serial/libopenblas.a)
BLAS_FUNCTIONS := cblas_sgemm openblas_get_corename
BLAS_WRAP := blas_memory_alloc blas_memory_free getenv exit xerbla_ \
    printf fprintf vfprintf puts putchar fputs fputc fwrite perror \
    __printf_chk __fprintf_chk __vfprintf_chk

# BLAS=system: whatever provides libblas.so with the C interface; its threads are its owner's.
BLAS_LIBS := -lopenblas
BLAS_CPPFLAGS := $(if $(filter system,$(BLAS)),-DLISA_SYSTEM_BLAS)

# The kernels of vector.inc, once for each instruction set; cpu.c chooses when it starts. No value
# depends on errno or on trapping, without which square roots and selections become vectors;
# and no vector crosses from one file to another, which is what -Wpsabi is about.
vector_flags := -fno-math-errno -fno-trapping-math -Wno-psabi
vector_object = $(B)/obj/liblisa/backend/cpu/vector_$(1).o
$(call vector_object,base): FILE_CFLAGS := $(vector_flags)
$(call vector_object,avx2): FILE_CFLAGS := $(vector_flags)
$(call vector_object,avx512): FILE_CFLAGS := $(vector_flags)
# Products of attention's blocks fuse multiplication and addition, as those of the BLAS do.
product_object = $(B)/obj/liblisa/backend/cpu/product_$(1).o
$(call product_object,base): FILE_CFLAGS := $(vector_flags) -ffp-contract=fast
$(call product_object,avx2): FILE_CFLAGS := $(vector_flags) -ffp-contract=fast
$(call product_object,avx512): FILE_CFLAGS := $(vector_flags) -ffp-contract=fast
ifneq ($(filter x86_64-%,$(shell $(CC) -dumpmachine)),)
$(call vector_object,avx2): FILE_CFLAGS += -mavx2 -mprefer-vector-width=256
$(call vector_object,avx512): FILE_CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq \
    -mprefer-vector-width=512
$(call product_object,avx2): FILE_CFLAGS += -mavx2 -mfma
$(call product_object,avx512): FILE_CFLAGS += -mavx512f
endif
