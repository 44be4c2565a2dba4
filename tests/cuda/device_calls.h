/* device_calls.h - the host device's functions (hostdevice.h), for programs that meet it by way of
 * the module alone: it is there once the cuda backend has been looked for. */
#ifndef LISA_DEVICE_CALLS_H
#define LISA_DEVICE_CALLS_H

#include "cuda/host/hostdevice.h"

#include <dlfcn.h>
#include <string.h>

/* Puts the function of that name in *call, a pointer to it; 0 where there is no host device. */
static inline int device_find(void *call, const char *name) {
    void *device = dlopen("libhostdevice.so", RTLD_NOLOAD | RTLD_LAZY);
    if (device == NULL)
        return 0;
    void *symbol = dlsym(device, name);
    memcpy(call, &symbol, sizeof symbol);
    dlclose(device);
    return symbol != NULL;
}

#endif
