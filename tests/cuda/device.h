/* device.h - the host device's controls (host/hostdevice.h) in a program that does not link it. It
 * is loaded by the backend's module, so it is there once a context has been made. */
#ifndef LISA_CUDA_DEVICE_H
#define LISA_CUDA_DEVICE_H

#include "cuda/host/hostdevice.h"

#include <check.h>
#include <dlfcn.h>
#include <string.h>

static inline void lisa_device_function(const char *name, void *function, size_t size) {
    void *device = dlopen("libhostdevice.so", RTLD_NOLOAD | RTLD_LAZY);
    ck_assert_msg(device != NULL, "%s", dlerror());
    void *symbol = dlsym(device, name);
    ck_assert_msg(symbol != NULL, "%s", dlerror());
    memcpy(function, &symbol, size);
    dlclose(device);
}

/* LISA_DEVICE(hostdevice_get_counts)(&counts) */
#define LISA_DEVICE(name)                                                                          \
    (*({                                                                                           \
        __typeof__(&name) function_;                                                               \
        lisa_device_function(#name, &function_, sizeof function_);                                 \
        function_;                                                                                 \
    }))

#endif
