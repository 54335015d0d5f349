// The names of kernels, from the symbol table of the program's own file: kernels may be static, and then the dynamic
// linker does not know them. Threads: any; pure, and reads the file once.
#include "tests/cuemu/internal.h"

#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <map>
#include <vector>

namespace {

std::vector<char> own_file() {
    std::vector<char> bytes;
    FILE *file = fopen("/proc/self/exe", "rb");
    if (!file) {
        return bytes;
    }
    fseek(file, 0, SEEK_END);
    bytes.resize(static_cast<size_t>(ftell(file)));
    rewind(file);
    bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
    fclose(file);
    return bytes;
}

// Where the program was loaded: what its symbols' addresses count from.
uintptr_t load_address() {
    uintptr_t address = 0;
    dl_iterate_phdr(
        [](struct dl_phdr_info *info, size_t, void *out) {
            *static_cast<uintptr_t *>(out) = info->dlpi_addr;
            return 1; // the program itself comes first
        },
        &address);
    return address;
}

std::map<uintptr_t, std::string> read_symbols() {
    std::map<uintptr_t, std::string> symbols;
    std::vector<char> file = own_file();
    if (file.size() < sizeof(Elf64_Ehdr)) {
        return symbols;
    }
    const auto *header = reinterpret_cast<const Elf64_Ehdr *>(file.data());
    const auto *sections = reinterpret_cast<const Elf64_Shdr *>(file.data() + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) {
            continue;
        }
        const auto *table = reinterpret_cast<const Elf64_Sym *>(file.data() + sections[i].sh_offset);
        const char *names = file.data() + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *table; s++) {
            if (ELF64_ST_TYPE(table[s].st_info) == STT_FUNC) {
                symbols[load_address() + table[s].st_value] = names + table[s].st_name;
            }
        }
    }
    return symbols;
}

// "void (anonymous namespace)::norm_kernel<true>(float*, unsigned int)" is "norm_kernel<true>".
std::string short_name(std::string name) {
    const std::string anonymous = "(anonymous namespace)::";
    for (size_t at; (at = name.find(anonymous)) != std::string::npos;) {
        name.erase(at, anonymous.size());
    }
    int depth = 0;
    size_t begin = 0;
    for (size_t i = 0; i < name.size(); i++) {
        depth += (name[i] == '<') - (name[i] == '>');
        if (depth == 0 && name[i] == ' ') {
            begin = i + 1; // past the type that it returns
        } else if (depth == 0 && name[i] == '(') {
            return name.substr(begin, i - begin);
        }
    }
    return name.substr(begin);
}

} // namespace

std::string cuemu::function_name(const void *function) {
    static const auto *symbols = new std::map<uintptr_t, std::string>(read_symbols());
    auto at = symbols->find(reinterpret_cast<uintptr_t>(function));
    if (at == symbols->end()) {
        return "a kernel without a name";
    }
    int error = 0;
    char *readable = abi::__cxa_demangle(at->second.c_str(), nullptr, nullptr, &error);
    std::string name = short_name(error == 0 ? readable : at->second);
    free(readable);
    return name;
}
