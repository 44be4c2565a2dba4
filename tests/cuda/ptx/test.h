/* test.h - what the interpreter's own tests share. */
#ifndef LISA_TESTS_CUDA_PTX_TEST_H
#define LISA_TESTS_CUDA_PTX_TEST_H

#include "library.h"

#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>

namespace ptx {

void check(bool good, const std::string &what);

/* Memory that kernels may touch, and kernels. */
class Bench {
  public:
    Library library;

    explicit Bench(const std::string &text = "");
    /* n elements of zeros, aligned to 16 bytes, with nothing allowed around them. */
    template <class T> T *array(size_t n) {
        return static_cast<T *>(bytes(n * sizeof(T)));
    }
    /* Runs the kernel "t"; parameters are pointers or numbers. */
    template <class... P> void run(Dim grid, Dim block, size_t shared, P... parameters) {
        std::vector<uint8_t> packed;
        (append(packed, parameters), ...);
        library.run("t", {grid, block, shared, packed.data(), packed.size()});
    }
    /* The same, and the report that it ends in, "" where it ends well. */
    template <class... P> std::string report(Dim grid, Dim block, size_t shared, P... parameters) {
        try {
            run(grid, block, shared, parameters...);
            return "";
        } catch (const Stop &stop) {
            return stop.what();
        }
    }

  private:
    std::vector<std::unique_ptr<uint8_t[]>> storage;
    std::vector<Range> ranges;

    void *bytes(size_t n);
    template <class P> static void append(std::vector<uint8_t> &packed, P parameter) {
        const size_t at = (packed.size() + alignof(P) - 1) / alignof(P) * alignof(P);
        packed.resize(at + sizeof parameter);
        memcpy(packed.data() + at, &parameter, sizeof parameter);
    }
};

/* A module with the entry "t" of so many pointers, %rd0 and on, and thread number %r0. %rN, %fN,
 * %dN, %hN, %pN are there for the body. */
std::string kernel(unsigned pointers, const std::string &body, const std::string &before = "");

void expect_report(const std::string &what, const std::string &report, const std::string &part);

/* ---- values ---- */

std::mt19937_64 &random_bits();

/* Of all kinds: what is special to the type, small, and any bits. */
template <class T> T some() {
    auto &random = random_bits();
    const uint64_t bits = random();
    T value;
    memcpy(&value, &bits, sizeof value);
    if constexpr (std::is_integral_v<T>) {
        switch (random() % 4) {
        case 0:
            return static_cast<T>(bits % 70) - static_cast<T>(2);
        case 1:
            return static_cast<T>(std::numeric_limits<T>::max() - bits % 3);
        default:
            return value;
        }
    } else {
        static const double specials[] = {0.0,          -0.0,         1.0,      -1.0,      0.5,
                                          1e-42,        -3e-39,       INFINITY, -INFINITY, NAN,
                                          2147483648.0, 4294967295.5, 65504};
        switch (random() % 4) {
        case 0:
            return static_cast<T>(specials[bits % std::size(specials)]);
        case 1:
            return value;
        default:
            return static_cast<T>(static_cast<double>(static_cast<int64_t>(bits)) * 0x1p-56);
        }
    }
}

/* Of floats, in the midst: exact sums and products fit a few hundred bits. */
float some_moderate();

void test_halves();
void test_integers();
void test_bits();
void test_floats();
void test_comparisons();
void test_conversions();
void test_moves();
void test_memory();
void test_atomics();
void test_async();
void test_control();
void test_warps();
void test_matrices();
void test_reports();
void test_rate();

} // namespace ptx

#endif
