/* An index over two shards that are sound. */
#include "weights.h"

FUZZ_ENTRY(fuzz_index) {
    static const char one[] = "\77\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                              "\"data_offsets\":[0,4]}}              1234";
    static const char two[] = "\77\0\0\0\0\0\0\0{\"b\":{\"dtype\":\"F16\",\"shape\":[2],"
                              "\"data_offsets\":[0,4]}}              1234";
    put_memory_file(1, "model.safetensors.index.json", data, size);
    put_memory_file(2, "1.safetensors", one, sizeof one - 1);
    put_memory_file(3, "2.safetensors", two, sizeof two - 1);
    open_and_look();
    for (int i = 1; i < 4; i++)
        put_memory_file(i, NULL, NULL, 0);
    return 0;
}
