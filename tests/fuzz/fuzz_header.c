/* A whole safetensors file. */
#include "weights.h"

FUZZ_ENTRY(fuzz_header) {
    put_memory_file(0, "model.safetensors", data, size);
    open_and_look();
    put_memory_file(0, NULL, NULL, 0);
    return 0;
}
