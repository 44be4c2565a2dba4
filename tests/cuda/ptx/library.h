/* library.h - the kernels of one or more PTX files, ready to run. */
#ifndef LISA_TESTS_CUDA_PTX_LIBRARY_H
#define LISA_TESTS_CUDA_PTX_LIBRARY_H

#include "grid.h"

#include <map>

namespace ptx {

/* Every entry of the module; one that cannot be decoded has an error. Addresses of the module's
 * variables are those of `variables`. */
std::vector<Program> decode_module(const Module &module,
                                   const std::unordered_map<std::string, uint64_t> &variables);

class Library {
  public:
    Surroundings surroundings;
    Counts counts; /* of all grids */

    /* Throws Stop where the text is no PTX. A kernel that is there already is replaced. */
    void load(const std::string &path);
    void add(const std::string &text);
    bool has(const std::string &name) const {
        return programs.count(name) != 0;
    }
    const std::map<std::string, Program> &kernels() const {
        return programs;
    }
    void run(const std::string &name, const Launch &launch);

  private:
    std::map<std::string, Program> programs;
    std::vector<std::unique_ptr<uint8_t[]>> storage; /* of variables */
};

} // namespace ptx

#endif
