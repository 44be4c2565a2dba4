/* library.cpp - see library.h. */
#include "library.h"

#include <cstring>
#include <fstream>
#include <sstream>

namespace ptx {

void Library::load(const std::string &path) {
    std::ifstream in(path);
    std::stringstream text;
    text << in.rdbuf();
    if (!in)
        throw Stop(path + ": cannot be read");
    try {
        add(text.str());
    } catch (const Stop &stop) {
        throw Stop(path + ": " + stop.what());
    }
}

void Library::add(const std::string &text) {
    const Module module = parse_module(text);
    std::unordered_map<std::string, uint64_t> addresses;
    for (const Variable &v : module.variables) {
        if ((v.space != Space::Global && v.space != Space::Const) || v.unsized)
            continue;
        constexpr size_t alignment = 256; /* new's own is at least 16 */
        auto bytes = std::make_unique<uint8_t[]>(v.bytes + alignment);
        const auto at = reinterpret_cast<uint64_t>(bytes.get() + alignment - 1) & ~(alignment - 1);
        if (!v.data.empty())
            memcpy(reinterpret_cast<void *>(at), v.data.data(), v.bytes);
        addresses[v.name] = at;
        surroundings.variables.push_back({at, at + v.bytes, v.space == Space::Global});
        storage.push_back(std::move(bytes));
    }
    for (Program &program : decode_module(module, addresses))
        programs[program.name] = std::move(program);
}

void Library::run(const std::string &name, const Launch &launch) {
    const auto found = programs.find(name);
    if (found == programs.end())
        throw Stop(name + ": no such kernel");
    const Counts grid = run_grid(found->second, launch, surroundings);
    counts.instructions += grid.instructions;
    counts.steps += grid.steps;
}

} // namespace ptx
