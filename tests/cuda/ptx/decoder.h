/* decoder.h - what a family of opcodes needs to decode one of its instructions. */
#ifndef LISA_TESTS_CUDA_PTX_DECODER_H
#define LISA_TESTS_CUDA_PTX_DECODER_H

#include "warp.h"

#include <initializer_list>

namespace ptx {

/* A mnemonic, taken apart at its dots. What nobody has taken in the end is not known. */
class Opcode {
  public:
    explicit Opcode(const std::string &text);
    const std::string &base() const {
        return parts[0];
    }
    bool is(const char *name) const {
        return parts[0] == name;
    }
    bool take(const char *modifier);
    /* The place in the list of the first that is taken, or -1. */
    int take_one(std::initializer_list<const char *> modifiers);
    Type take_type(); /* the first that is left; None where there is none */
    Type peek_type() const;
    Rounding take_rounding(); /* rn, rz, rm, rp; nearest where there is none */
    std::string left() const; /* a modifier that was not taken, or "" */

  private:
    std::vector<std::string> parts;
    std::vector<bool> taken;
};

class Decoder {
  public:
    virtual ~Decoder() = default;

    const Statement *statement = nullptr;

    /* The slot of an operand read as `type`. */
    virtual uint32_t source(const Operand &o, Type type) = 0;
    /* The slot that an operand of `type` is written to. A register that is wider gets the value's
     * extension from an instruction of its own, after this one. */
    virtual uint32_t dest(const Operand &o, Type type) = 0;
    virtual uint32_t second_dest(const Operand &o) = 0; /* the predicate of %r|%p, or NO_SLOT */
    /* Fills in s[0] and offset; parameters of a call lie in another space than in.space says. */
    virtual void address(const Operand &o, Inst &in) = 0;
    /* The slot of an address in shared memory, 32 bits. */
    virtual uint32_t shared_address(const Operand &o) = 0;
    virtual void note_access(Space space, unsigned bytes) = 0;
    [[noreturn]] virtual void refuse(const std::string &why) const = 0;

    size_t operands() const {
        return statement->operands.size();
    }
    const Operand &operand(size_t i) const {
        if (i >= operands())
            refuse("too few operands");
        return statement->operands[i];
    }
    void sources(Inst &in, size_t first, std::initializer_list<Type> types) {
        size_t n = 0;
        for (const Type type : types) {
            in.s[n] = source(operand(first + n), type);
            n++;
        }
    }
    /* d[0] of the one type, s[] of the others, in the order of the operands. */
    void plain(Inst &in, Type result, std::initializer_list<Type> types) {
        in.d[0] = dest(operand(0), result);
        sources(in, 1, types);
        if (operands() != types.size() + 1)
            refuse("unexpected operands");
    }
};

/* Words that order accesses or speak to caches: everything here happens in one order, at once. */
void take_memory_hints(Opcode &op);
Space take_access_space(Opcode &op);

/* Each fills in and returns whether the opcode is of its family. */
bool decode_integer(Decoder &d, Opcode &op, Inst &in);
bool decode_bits(Decoder &d, Opcode &op, Inst &in);
bool decode_float(Decoder &d, Opcode &op, Inst &in);
bool decode_compare(Decoder &d, Opcode &op, Inst &in);
bool decode_convert(Decoder &d, Opcode &op, Inst &in);
bool decode_move(Decoder &d, Opcode &op, Inst &in);
bool decode_memory(Decoder &d, Opcode &op, Inst &in);
bool decode_atomic(Decoder &d, Opcode &op, Inst &in);
bool decode_async(Decoder &d, Opcode &op, Inst &in);
bool decode_warp(Decoder &d, Opcode &op, Inst &in);
bool decode_matrix(Decoder &d, Opcode &op, Inst &in);

inline bool is_float(Type t) {
    return t == Type::F16 || t == Type::BF16 || t == Type::F32 || t == Type::F64 ||
           t == Type::F16x2 || t == Type::BF16x2;
}
inline bool is_signed(Type t) {
    return t == Type::S8 || t == Type::S16 || t == Type::S32 || t == Type::S64;
}

/* Calls f with a value of the C type of an integer type, and returns what it returns. */
template <class F> Handler with_integer(Type type, F f) {
    switch (type) {
    case Type::S16:
        return f(int16_t());
    case Type::B16:
    case Type::U16:
        return f(uint16_t());
    case Type::S32:
        return f(int32_t());
    case Type::B32:
    case Type::U32:
        return f(uint32_t());
    case Type::S64:
        return f(int64_t());
    case Type::B64:
    case Type::U64:
        return f(uint64_t());
    default:
        return nullptr;
    }
}

} // namespace ptx

#endif
