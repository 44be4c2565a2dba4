/* test_ptx.cpp - the interpreter's own tests: small kernels for each family of instructions, held
 * to C, and what must end in a report. With files of PTX as arguments: whether all their kernels
 * can be decoded. */
#include "test.h"

#include <cstdio>

namespace ptx {
namespace {

unsigned checks, failures;

void decode_file(const char *path) {
    Library library;
    try {
        library.load(path);
    } catch (const Stop &stop) {
        return check(false, stop.what());
    }
    for (const auto &[name, program] : library.kernels())
        check(program.error.empty(), name + ": " + program.error);
}

int finish() {
    const unsigned good = checks - failures;
    printf("%u%%: Checks: %u, Failures: %u, Errors: 0\n", checks ? 100 * good / checks : 100,
           checks, failures);
    return failures ? 1 : 0;
}

void test_all() {
    test_halves();
    test_integers();
    test_bits();
    test_floats();
    test_comparisons();
    test_conversions();
    test_moves();
    test_memory();
    test_atomics();
    test_async();
    test_control();
    test_warps();
    test_matrices();
    test_reports();
    test_rate();
}

} // namespace

void check(bool good, const std::string &what) {
    checks++;
    if (good)
        return;
    failures++;
    printf("failed: %s\n", what.c_str());
}

void expect_report(const std::string &what, const std::string &report, const std::string &part) {
    check(report.find(part) != std::string::npos,
          what + ": expected a report of '" + part + "', there was '" + report + "'");
}

std::mt19937_64 &random_bits() {
    static std::mt19937_64 random(20240229);
    return random;
}

float some_moderate() {
    const auto mantissa = static_cast<float>(static_cast<int32_t>(random_bits()()));
    return std::ldexp(mantissa, -static_cast<int>(random_bits()() % 40));
}

std::string kernel(unsigned pointers, const std::string &body, const std::string &before) {
    std::string text =
        ".version 8.0\n.target sm_80\n.address_size 64\n" + before + "\n.visible .entry t(\n";
    for (unsigned i = 0; i < pointers; i++)
        text += ".param .u64 t_" + std::to_string(i) + (i + 1 < pointers ? ",\n" : "\n");
    text += ")\n{\n.reg .pred %p<9>;\n.reg .b16 %h<9>;\n.reg .b32 %r<40>;\n.reg .f32 %f<9>;\n"
            ".reg .b64 %rd<20>;\n.reg .f64 %d<9>;\n";
    for (unsigned i = 0; i < pointers; i++)
        text += "ld.param.u64 %rd" + std::to_string(i) + ", [t_" + std::to_string(i) + "];\n";
    return text + "mov.u32 %r0, %tid.x;\n" + body + "\nret;\n}\n";
}

Bench::Bench(const std::string &text) {
    library.surroundings.find = [this](uint64_t address, size_t bytes, Range *range) {
        for (const Range &r : ranges)
            if (r.holds(address, bytes)) {
                *range = r;
                return true;
            }
        return false;
    };
    if (!text.empty())
        library.add(text);
}

void *Bench::bytes(size_t n) {
    storage.push_back(std::make_unique<uint8_t[]>(n + 16));
    const uint64_t at = (reinterpret_cast<uint64_t>(storage.back().get()) + 15) / 16 * 16;
    ranges.push_back({at, at + n, true});
    return reinterpret_cast<void *>(at);
}

} // namespace ptx

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        ptx::decode_file(argv[i]);
    if (argc == 1)
        ptx::test_all();
    return ptx::finish();
}
