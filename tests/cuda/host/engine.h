/* engine.h - what a kernel compiled for the host device calls.
 *
 * A block's threads are fibers of one operating system thread. A wait of any kind names its place
 * in the source, by which the engine tells threads that meet from threads that diverge. */
#ifndef HOSTDEVICE_ENGINE_H
#define HOSTDEVICE_ENGINE_H

/* The host device defines these functions. */
#pragma GCC visibility push(default)
#include <cuda_runtime_api.h>
#pragma GCC visibility pop

#include <memory>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <vector>

/* Where the linker put the __shared__ variables of the module that includes this. */
extern "C" {
extern unsigned char __start_hostdevice_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_hostdevice_shared[] __attribute__((weak, visibility("hidden")));
}

#define HOSTDEVICE_HIDDEN __attribute__((visibility("hidden")))

#pragma GCC visibility push(default)

namespace hostdevice {

/* The thread that runs now; the engine's own record of it begins so. */
struct Thread {
    uint3 index;
};
extern Thread *current;
extern uint3 block_index;
extern dim3 block_size, grid_size;

/* ---- launch ---- */

/* Everything that the engine needs of a kernel once its stream comes to it. */
struct Launch {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
    void (*run)(const void *call); /* calls the kernel with its arguments, for one thread */
    std::shared_ptr<const void> call;
    size_t call_bytes;
    std::vector<unsigned char> parameters; /* as a PTX .param block */
    unsigned char *static_shared, *static_shared_end;
};

void launch_kernel(Launch launch);

/* A kernel and its arguments, converted to the kernel's own types when it is launched. */
template <class... P> struct HOSTDEVICE_HIDDEN Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;

    static void run(const void *call) {
        const Call *self = static_cast<const Call *>(call);
        std::apply(self->kernel, self->arguments);
    }

    template <class T> static void append(std::vector<unsigned char> &block, const T &value) {
        const size_t at = (block.size() + alignof(T) - 1) / alignof(T) * alignof(T);
        block.resize(at + sizeof(T));
        memcpy(block.data() + at, &value, sizeof(T));
    }

    std::vector<unsigned char> parameter_block() const {
        std::vector<unsigned char> block;
        std::apply([&](const P &...value) { (append(block, value), ...); }, arguments);
        return block;
    }
};

template <class... P, class... A>
HOSTDEVICE_HIDDEN void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                              size_t shared_bytes, cudaStream_t stream, A &&...arguments) {
    auto call = std::make_shared<Call<P...>>(
        Call<P...>{kernel, std::tuple<P...>(static_cast<P>(arguments)...)});
    std::vector<unsigned char> parameters = call->parameter_block();
    launch_kernel({name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream,
                   &Call<P...>::run, call, sizeof(Call<P...>), std::move(parameters),
                   __start_hostdevice_shared, __stop_hostdevice_shared});
}

/* ---- shared memory and wide accesses ---- */

void *dynamic_shared();
uint4 load16(const void *p, const char *file, int line);
void store16(void *p, uint4 value, const char *file, int line);

/* The destination holds NaN until the wait that the copy's group needs. */
void copy_async16(void *to_shared, const void *from, bool is_there, const char *file, int line);
void copy_async_commit();
void copy_async_wait(int newest_under_way);

/* ---- barriers ---- */

enum class Vote { none, any, all, count };

int block_barrier(Vote vote, int predicate, const char *file, int line);

/* ---- warps ---- */

enum class WarpOperation {
    sync,
    shuffle_index,
    shuffle_up,
    shuffle_down,
    shuffle_xor,
    ballot,
    reduce_add,
    reduce_min,
    reduce_max,
    reduce_min_signed,
    reduce_max_signed,
    reduce_and,
    reduce_or,
    reduce_xor,
    mma_bf16,
    mma_f16,
    ldmatrix,
    ldmatrix_transposed,
};

/* All lanes of the mask meet; each gives `value` and has its result back. */
uint64_t warp_value(WarpOperation operation, unsigned mask, uint64_t value, int argument, int width,
                    const char *file, int line);

void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file,
              int line);
void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file,
             int line);
void ldmatrix4(uint32_t (&out)[4], const void *row, int transposed, const char *file, int line);
unsigned active_mask();

/* A kernel's own complaint: __trap. */
[[noreturn]] void trap(const char *file, int line);

} // namespace hostdevice

#pragma GCC visibility pop

#endif
