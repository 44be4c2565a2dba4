/* ptx.h - where an interpreter of PTX takes over from kernels compiled as C++. */
#ifndef HOSTDEVICE_PTX_H
#define HOSTDEVICE_PTX_H

#include <stddef.h>
#include <vector_types.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* Whether there is PTX of this kernel (its mangled name). */
typedef int (*hostdevice_ptx_has_fn)(const char *mangled);
/* Runs a whole grid; device memory is accessible meanwhile. `params` is the kernel's .param block,
 * each parameter at its natural alignment. Not 0 loses the device (cudaErrorLaunchFailure). */
typedef int (*hostdevice_ptx_grid_fn)(const char *mangled, dim3 grid, dim3 block,
                                      size_t shared_bytes, const void *params, size_t params_bytes);

/* Both NULL: kernels run as C++ again. */
void hostdevice_set_ptx(hostdevice_ptx_has_fn has, hostdevice_ptx_grid_fn grid);

/* For the interpreter: a defect found in the kernel, a report like those of hostdevice.h. */
void hostdevice_report(const char *format, ...) __attribute__((format(printf, 1, 2)));

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
