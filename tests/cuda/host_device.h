/* host_device.h - the host device's controls in a test that is linked without it, and the main of a
 * test that needs it: skipped on a GPU. */
#ifndef LISA_HOST_DEVICE_H
#define LISA_HOST_DEVICE_H

#include "cuda/host/hostdevice.h"
#include "cuda_main.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* The library that the module will find beside itself; NULL where that is none. */
static inline void *lisa_host_device(void) {
    static void *device;
    char path[4096];
    if (device == NULL && getenv("LISA_BACKEND_PATH") != NULL) {
        snprintf(path, sizeof path, "%s/libhostdevice.so", getenv("LISA_BACKEND_PATH"));
        device = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return device;
}

/* A function of hostdevice.h, to be called. */
#define ON_HOST_DEVICE(function) (*(__typeof__(function) *)dlsym(lisa_host_device(), #function))

#define LISA_HOST_DEVICE_MAIN(make_suite)                                                          \
    int main(void) {                                                                               \
        if (lisa_host_device() != NULL)                                                            \
            return lisa_cuda_missing() ? 77 : lisa_check_run(make_suite());                        \
        printf("the host device is not in LISA_BACKEND_PATH\n");                                   \
        return 77;                                                                                 \
    }

#endif
