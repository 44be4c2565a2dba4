/* symbol.cpp - names for addresses of code. */
#include "internal.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hostdevice {

/* A file's bytes while it exists. */
class MappedFile {
  public:
    explicit MappedFile(const char *path) {
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        struct stat info;
        if (file >= 0 && fstat(file, &info) == 0 && info.st_size > 0) {
            size_ = static_cast<size_t>(info.st_size);
            map_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        }
        if (file >= 0)
            close(file);
    }
    ~MappedFile() {
        if (map_ != MAP_FAILED)
            munmap(map_, size_);
    }
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;
    bool is_there() const {
        return map_ != MAP_FAILED;
    }
    template <class T> const T *at(uint64_t offset) const {
        return reinterpret_cast<const T *>(static_cast<const char *>(map_) + offset);
    }

  private:
    void *map_ = MAP_FAILED;
    size_t size_ = 0;
};

/* The function at `address` by the full table of symbols, which holds hidden ones too. */
static std::string local_symbol(const MappedFile &file, uint64_t address) {
    const auto *header = file.at<Elf64_Ehdr>(0);
    const auto *sections = file.at<Elf64_Shdr>(header->e_shoff);
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        const auto *symbols = file.at<Elf64_Sym>(sections[i].sh_offset);
        const char *names = file.at<char>(sections[sections[i].sh_link].sh_offset);
        for (uint64_t s = 0; s < sections[i].sh_size / sizeof(Elf64_Sym); s++)
            if (ELF64_ST_TYPE(symbols[s].st_info) == STT_FUNC && symbols[s].st_value == address)
                return names + symbols[s].st_name;
    }
    return "";
}

/* The lowest address that the file asks for: 0 but for programs at fixed places. */
static uint64_t first_address(const MappedFile &file) {
    const auto *header = file.at<Elf64_Ehdr>(0);
    const auto *segments = file.at<Elf64_Phdr>(header->e_phoff);
    for (unsigned i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD)
            return segments[i].p_vaddr - segments[i].p_offset;
    return 0;
}

static std::string looked_up(const void *function) {
    Dl_info info;
    if (dladdr(function, &info) == 0 || info.dli_fname == nullptr)
        return "";
    if (info.dli_sname != nullptr && info.dli_saddr == function)
        return info.dli_sname;
    const MappedFile file(info.dli_fname);
    if (!file.is_there())
        return "";
    const uint64_t offset = static_cast<uint64_t>(static_cast<const char *>(function) -
                                                  static_cast<const char *>(info.dli_fbase));
    return local_symbol(file, first_address(file) + offset);
}

std::string symbol_of(const void *function) {
    static auto &known = *new std::map<const void *, std::string>;
    auto [found, is_new] = known.emplace(function, "");
    if (is_new)
        found->second = looked_up(function);
    return found->second;
}

struct ModuleSearch {
    const char *address, *first, *last;
};

static int look_at_module(struct dl_phdr_info *info, size_t, void *data) {
    auto *search = static_cast<ModuleSearch *>(data);
    const char *first = nullptr, *last = nullptr;
    bool holds = false;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const auto &segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD)
            continue;
        const auto *at = reinterpret_cast<const char *>(info->dlpi_addr + segment.p_vaddr);
        first = first == nullptr ? at : first;
        last = at + segment.p_memsz;
        holds = holds || (search->address >= at && search->address < last);
    }
    if (holds) {
        search->first = first;
        search->last = last;
    }
    return holds ? 1 : 0;
}

std::pair<const char *, const char *> module_of(const void *address) {
    ModuleSearch search = {static_cast<const char *>(address), nullptr, nullptr};
    dl_iterate_phdr(look_at_module, &search);
    return {search.first, search.last};
}

/* ---- places in the source, by a program of binutils ---- */

/* Its output has two lines an address: the function and FILE:LINE. */
static void ask_addr2line(const char *module,
                          const std::vector<std::pair<const void *, size_t>> &of,
                          std::map<const void *, std::string> *places) {
    std::string command = std::string("addr2line -C -f -s -e '") + module + "'";
    char text[64];
    for (const auto &[code, offset] : of) {
        snprintf(text, sizeof text, " 0x%zx", offset);
        command += text;
    }
    FILE *answer = popen((command + " 2>/dev/null").c_str(), "r");
    if (answer == nullptr)
        return;
    char function[1024], place[1024];
    for (const auto &[code, offset] : of) {
        if (fgets(function, sizeof function, answer) == nullptr ||
            fgets(place, sizeof place, answer) == nullptr)
            break;
        const std::string line(place);
        (*places)[code] = line.substr(0, line.find_first_of(" \n"));
    }
    pclose(answer);
}

/* An address behind a call belongs to the line of the call. */
std::map<const void *, std::string> places_of(const std::vector<const void *> &code) {
    std::map<std::string, std::vector<std::pair<const void *, size_t>>> by_module;
    std::map<const void *, std::string> places;
    for (const void *address : code) {
        Dl_info info;
        places[address] = "?";
        if (dladdr(address, &info) == 0)
            continue;
        const auto offset =
            static_cast<const char *>(address) - 1 - static_cast<const char *>(info.dli_fbase);
        by_module[info.dli_fname].push_back({address, static_cast<size_t>(offset)});
    }
    for (const auto &[module, addresses] : by_module)
        ask_addr2line(module.c_str(), addresses, &places);
    return places;
}

} // namespace hostdevice
