/* host.h - the interpreter in the host device: kernels run as PTX instead of as C++.
 *
 * In a program of its own ptx_load comes before the first launch. In any other program the library
 * is preloaded, and the environment says what it does:
 *   PTX_DIRECTORY     all its *.ptx are loaded, and a kernel that none of them has is a report
 *   PTX_COUNTS        a file that gets a line for each kernel that ran when the program ends:
 *                     grids, instructions of threads, seconds, name
 *   HOSTDEVICE_ORDER  as in hostdevice.h, of warps and blocks here */
#ifndef LISA_TESTS_CUDA_PTX_HOST_H
#define LISA_TESTS_CUDA_PTX_HOST_H

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* Adds a file's kernels. 0, or -1 after a report. */
int ptx_load(const char *path);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
