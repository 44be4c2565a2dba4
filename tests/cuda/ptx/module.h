/* module.h - the text of a PTX module as data: functions, variables, statements; nothing of it has
 * a meaning yet. */
#ifndef LISA_TESTS_CUDA_PTX_MODULE_H
#define LISA_TESTS_CUDA_PTX_MODULE_H

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace ptx {

/* Ends a parse, a decoding or a grid; its text says where and why. */
struct Stop : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Type : uint8_t {
    None,
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    BF16,
    B32,
    U32,
    S32,
    F32,
    F16x2,
    BF16x2,
    B64,
    U64,
    S64,
    F64,
};

unsigned size_of(Type type); /* bytes; 1 for Pred */
Type type_named(const std::string &name);

enum class Space : uint8_t { Generic, Global, Shared, Local, Param, Const };

struct Variable {
    std::string name;
    Space space = Space::Generic;
    size_t align = 1;
    size_t bytes = 0;
    bool unsized = false;      /* name[]: dynamic shared memory */
    std::vector<uint8_t> data; /* initial value, or empty */
};

struct Operand {
    enum Kind : uint8_t { Register, Name, Integer, Float32, Float64, Vector, Address, Sink };
    Kind kind = Sink;
    bool negated = false; /* !%p */
    int reg = -1;         /* index into Function::registers */
    int second = -1;      /* of %r|%p, or the sink's -1 */
    std::string name;     /* a symbol, a label or a special register */
    uint64_t value = 0;   /* bits of a literal, an address's offset */
    std::vector<Operand> items;
};

struct Statement {
    int line = 0;
    int scope = 0;
    std::string label; /* of its own statement, or of a .branchtargets */
    std::string opcode;
    int guard = -1;
    bool guard_negated = false;
    std::vector<Operand> operands;
};

struct Function {
    std::string name;
    bool is_entry = false;
    bool has_body = false;
    unsigned max_threads = 0; /* of .maxntid, 0 where there is none */
    std::vector<Variable> returns, params;
    std::vector<Type> registers;
    std::vector<Variable> variables; /* of the body, names made unique */
    std::vector<int> scope_parent;
    std::vector<Statement> body;
};

struct Module {
    std::vector<std::string> lines; /* the text, for reports */
    std::vector<Variable> variables;
    std::unordered_map<std::string, Function> functions;
};

Module parse_module(const std::string &text);

} // namespace ptx

#endif
