/* decoder.cpp - functions of a module to programs. Calls are inlined: a callee's registers are
 * slots of their own for each call, its parameters variables of the caller. */
#include "decoder.h"

#include "library.h"

#include <algorithm>

namespace ptx {

/* ---- opcodes -------------------------------------------------------------------------------- */

Opcode::Opcode(const std::string &text) {
    size_t from = 0;
    for (size_t at = 0; at <= text.size(); at++)
        if (at == text.size() || text[at] == '.') {
            parts.push_back(text.substr(from, at - from));
            from = at + 1;
        }
    taken.assign(parts.size(), false);
    taken[0] = true;
}

bool Opcode::take(const char *modifier) {
    for (size_t i = 1; i < parts.size(); i++)
        if (!taken[i] && parts[i] == modifier) {
            taken[i] = true;
            return true;
        }
    return false;
}

int Opcode::take_one(std::initializer_list<const char *> modifiers) {
    int at = 0;
    for (const char *m : modifiers) {
        if (take(m))
            return at;
        at++;
    }
    return -1;
}

Type Opcode::peek_type() const {
    for (size_t i = 1; i < parts.size(); i++)
        if (!taken[i] && type_named(parts[i]) != Type::None)
            return type_named(parts[i]);
    return Type::None;
}

Type Opcode::take_type() {
    for (size_t i = 1; i < parts.size(); i++)
        if (!taken[i] && type_named(parts[i]) != Type::None) {
            taken[i] = true;
            return type_named(parts[i]);
        }
    return Type::None;
}

Rounding Opcode::take_rounding() {
    const int found = take_one({"rn", "rz", "rm", "rp"});
    return found < 0 ? Rounding::Nearest : static_cast<Rounding>(found);
}

std::string Opcode::left() const {
    for (size_t i = 1; i < parts.size(); i++)
        if (!taken[i])
            return parts[i];
    return "";
}

namespace {

constexpr int DEEPEST_CALL = 32;

size_t aligned(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

bool is_wide(Type type) {
    return size_of(type) == 8;
}

/* Where a variable lies. */
struct Place {
    Space space;
    uint64_t at;
};

/* One function at one place of the program. */
struct Frame {
    const Function *function = nullptr;
    std::vector<uint32_t> slots; /* of its registers, NO_SLOT before the first use */
    std::unordered_map<std::string, Place> variables;
    std::map<std::pair<int, std::string>, uint32_t> labels;
    struct Jump {
        size_t inst;
        const Statement *statement;
        std::string label;
    };
    std::vector<Jump> jumps;
    std::vector<size_t> returns; /* branches to its end */
    bool is_entry = false;
};

template <void CONVERT(Warp &, unsigned, const Inst &)>
void by_lane(Warp &w, const Inst &in, uint32_t lanes) {
    for_lanes(lanes, [&](unsigned i) { CONVERT(w, i, in); });
}

void narrow_cell(Warp &w, unsigned i, const Inst &in) {
    w.cells<uint32_t>(in.d[0])[i] = static_cast<uint32_t>(w.cells<uint64_t>(in.s[0])[i]);
}

void widen_cell(Warp &w, unsigned i, const Inst &in) {
    w.cells<uint64_t>(in.d[0])[i] = w.cells<uint32_t>(in.s[0])[i];
}

void widen_signed_cell(Warp &w, unsigned i, const Inst &in) {
    w.cells<uint64_t>(in.d[0])[i] = static_cast<uint64_t>(
        static_cast<int64_t>(static_cast<int32_t>(w.cells<uint32_t>(in.s[0])[i])));
}

void add_offset(Warp &w, unsigned i, const Inst &in) {
    w.cells<uint32_t>(in.d[0])[i] =
        w.cells<uint32_t>(in.s[0])[i] + static_cast<uint32_t>(in.offset);
}

void invert_predicate(Warp &w, const Inst &in, uint32_t lanes) {
    w.set_predicate(in.d[0], lanes, ~w.predicate(in.s[0]));
}

void fail_assertion(Warp &w, const Inst &in, uint32_t lanes) {
    w.stop(in, lanes, "an assertion of the kernel fails");
}

void trap(Warp &w, const Inst &in, uint32_t lanes) {
    w.stop(in, lanes, "the kernel traps");
}

class FunctionDecoder final : public Decoder {
  public:
    FunctionDecoder(const Module &m, const std::unordered_map<std::string, uint64_t> &v)
        : module(m), module_variables(v) {}

    Program decode(const Function &entry) {
        program.name = entry.name;
        program.max_threads = entry.max_threads;
        try {
            Frame top;
            top.is_entry = true;
            for (const Variable &p : entry.params) {
                program.param_bytes = aligned(program.param_bytes, p.align);
                top.variables[p.name] = {Space::Param, program.param_bytes};
                program.param_bytes += p.bytes;
            }
            inline_function(entry, top);
        } catch (const Stop &stop) {
            program.error = stop.what();
        }
        program.local_bytes = aligned(program.local_bytes, 16);
        return std::move(program);
    }

    /* ---- operands ----------------------------------------------------------------------- */

    uint32_t source(const Operand &o, Type type) override {
        switch (o.kind) {
        case Operand::Register:
            return o.negated ? inverted(register_slot(o.reg)) : source_register(o, type);
        case Operand::Integer:
            if (is_float(type) && size_of(type) > 2)
                refuse("an integer where a float is expected");
            return literal(o.value, type);
        case Operand::Float32:
        case Operand::Float64:
            return float_literal(o, type);
        case Operand::Name:
            return named(o.name, type);
        default:
            refuse("an operand that cannot be read");
        }
    }

    uint32_t dest(const Operand &o, Type type) override {
        if (o.kind == Operand::Sink)
            return new_slot(is_wide(type));
        if (o.kind != Operand::Register)
            refuse("an operand that cannot be written");
        const Type has = frame->function->registers[static_cast<size_t>(o.reg)];
        check_width(has, type);
        const uint32_t slot = register_slot(o.reg);
        if (!is_wide(has) || is_wide(type))
            return slot;
        Inst widen = blank();
        widen.run = is_signed(type) ? by_lane<widen_signed_cell> : by_lane<widen_cell>;
        widen.s[0] = new_slot(false);
        widen.d[0] = slot;
        after.push_back(widen);
        return widen.s[0];
    }

    uint32_t second_dest(const Operand &o) override {
        return o.second < 0 ? NO_SLOT : register_slot(o.second);
    }

    void address(const Operand &o, Inst &in) override {
        if (o.kind != Operand::Address)
            refuse("expected an address");
        const Operand &base = o.items[0];
        in.offset = static_cast<int64_t>(o.value);
        if (base.kind == Operand::Register) {
            const Type has = frame->function->registers[static_cast<size_t>(base.reg)];
            in.wide_address = is_wide(has);
            in.s[0] = register_slot(base.reg);
            if (!in.wide_address && in.space == Space::Generic)
                refuse("a generic address of 32 bits");
        } else if (base.kind == Operand::Integer) {
            in.offset += static_cast<int64_t>(base.value);
        } else if (base.kind == Operand::Name) {
            variable_address(base.name, in);
        } else {
            refuse("an address that is not known");
        }
    }

    uint32_t shared_address(const Operand &o) override {
        Inst in = blank();
        in.space = Space::Shared;
        address(o, in);
        if (in.s[0] == NO_SLOT)
            return constant(static_cast<uint64_t>(in.offset), false);
        uint32_t slot = in.s[0];
        if (in.wide_address)
            slot = narrowed(slot);
        if (in.offset == 0)
            return slot;
        Inst add = blank();
        add.run = by_lane<add_offset>;
        add.s[0] = slot;
        add.d[0] = new_slot(false);
        add.offset = in.offset;
        program.code.push_back(add);
        return add.d[0];
    }

    void note_access(Space space, unsigned bytes) override {
        if (space != Space::Shared && space != Space::Generic)
            return;
        while (program.shadow_shift > 0 && bytes < 1u << program.shadow_shift)
            program.shadow_shift--;
    }

    [[noreturn]] void refuse(const std::string &why) const override {
        throw Stop("line " + std::to_string(statement->line) + ": " + why + ": '" + text() + "'");
    }

  private:
    const Module &module;
    const std::unordered_map<std::string, uint64_t> &module_variables;
    Program program;
    Frame *frame = nullptr;
    int depth = 0;
    std::vector<Inst> after; /* to follow the instruction that is being decoded */
    std::map<std::pair<uint64_t, bool>, uint32_t> literals;
    std::map<Special, uint32_t> specials;
    std::unordered_map<std::string, Place> shared_variables;
    std::unordered_map<std::string, uint32_t> tables;

    std::string text() const {
        const auto line = static_cast<size_t>(statement->line);
        const std::string &all = line && line <= module.lines.size() ? module.lines[line - 1] : "";
        const size_t first = all.find_first_not_of(" \t");
        return first == std::string::npos ? statement->opcode : all.substr(first);
    }

    Inst blank() const {
        Inst in;
        in.line = static_cast<uint32_t>(statement->line);
        return in;
    }

    uint32_t new_slot(bool wide) {
        const uint32_t slot = program.slots;
        program.slots += wide ? 2 : 1;
        return slot;
    }

    uint32_t register_slot(int reg) {
        uint32_t &slot = frame->slots[static_cast<size_t>(reg)];
        if (slot == NO_SLOT)
            slot = new_slot(is_wide(frame->function->registers[static_cast<size_t>(reg)]));
        return slot;
    }

    /* A register may be wider than its instruction, not narrower, and predicates are apart. */
    void check_width(Type has, Type type) const {
        if ((has == Type::Pred) != (type == Type::Pred) || size_of(has) < size_of(type))
            refuse("a register of another width");
    }

    uint32_t source_register(const Operand &o, Type type) {
        const Type has = frame->function->registers[static_cast<size_t>(o.reg)];
        check_width(has, type);
        const uint32_t slot = register_slot(o.reg);
        return is_wide(has) && !is_wide(type) ? narrowed(slot) : slot;
    }

    uint32_t narrowed(uint32_t slot) {
        Inst in = blank();
        in.run = by_lane<narrow_cell>;
        in.s[0] = slot;
        in.d[0] = new_slot(false);
        program.code.push_back(in);
        return in.d[0];
    }

    uint32_t inverted(uint32_t slot) {
        Inst in = blank();
        in.run = invert_predicate;
        in.s[0] = slot;
        in.d[0] = new_slot(false);
        program.code.push_back(in);
        return in.d[0];
    }

    uint32_t constant(uint64_t bits, bool wide) {
        const auto found = literals.find({bits, wide});
        if (found != literals.end())
            return found->second;
        const uint32_t slot = new_slot(wide);
        program.constants.push_back({slot, wide, bits});
        literals[{bits, wide}] = slot;
        return slot;
    }

    uint32_t literal(uint64_t value, Type type) {
        if (type == Type::Pred)
            return constant(value ? ALL_LANES : 0, false);
        return constant(is_wide(type) ? value : value & 0xFFFFFFFFu, is_wide(type));
    }

    uint32_t float_literal(const Operand &o, Type type) {
        uint64_t bits = o.value;
        if (o.kind == Operand::Float64 && size_of(type) == 4) {
            double value;
            memcpy(&value, &bits, sizeof value);
            bits = bits_of<uint32_t>(static_cast<float>(value));
        } else if (o.kind == Operand::Float32 ? size_of(type) != 4 : size_of(type) != 8) {
            refuse("a literal of another width");
        }
        return constant(bits, is_wide(type));
    }

    /* A special register, or the address of a variable. */
    uint32_t named(const std::string &name, Type type) {
        if (name[0] == '%')
            return special(name, type);
        Inst in;
        variable_address(name, in);
        if (in.s[0] != NO_SLOT) /* of dynamic shared memory */
            return is_wide(type) ? dynamic_shared(0, true) : in.s[0];
        return constant(static_cast<uint64_t>(in.offset), is_wide(type));
    }

    uint32_t special(const std::string &name, Type type) {
        static const std::unordered_map<std::string, Special> known = {
            {"%tid.x", Special::TidX},
            {"%tid.y", Special::TidY},
            {"%tid.z", Special::TidZ},
            {"%ntid.x", Special::NtidX},
            {"%ntid.y", Special::NtidY},
            {"%ntid.z", Special::NtidZ},
            {"%ctaid.x", Special::CtaidX},
            {"%ctaid.y", Special::CtaidY},
            {"%ctaid.z", Special::CtaidZ},
            {"%nctaid.x", Special::NctaidX},
            {"%nctaid.y", Special::NctaidY},
            {"%nctaid.z", Special::NctaidZ},
            {"%laneid", Special::Laneid},
            {"%warpid", Special::Warpid},
            {"%nwarpid", Special::Nwarpid},
            {"%lanemask_eq", Special::LanemaskEq},
            {"%lanemask_le", Special::LanemaskLe},
            {"%lanemask_lt", Special::LanemaskLt},
            {"%lanemask_ge", Special::LanemaskGe},
            {"%lanemask_gt", Special::LanemaskGt},
            {"%dynamic_smem_size", Special::DynamicShared},
        };
        const auto found = known.find(name);
        if (found == known.end())
            refuse("a register that is not known, " + name);
        if (is_wide(type))
            refuse("a special register of another width");
        const auto made = specials.find(found->second);
        if (made != specials.end())
            return made->second;
        const uint32_t slot = new_slot(false);
        program.specials.push_back({slot, found->second});
        specials[found->second] = slot;
        return slot;
    }

    /* ---- variables ---------------------------------------------------------------------- */

    uint32_t dynamic_shared(uint64_t offset, bool wide) {
        const uint32_t slot = new_slot(wide);
        program.dynamic_shared.push_back({slot, wide, offset});
        return slot;
    }

    /* s[0] and offset of a variable, and its space where that is a call's parameter. */
    void variable_address(const std::string &name, Inst &in) {
        const auto own = frame->variables.find(name);
        if (own != frame->variables.end()) {
            in.space = in.space == Space::Param ? own->second.space : in.space;
            in.offset += static_cast<int64_t>(own->second.at);
            return;
        }
        const auto global = module_variables.find(name);
        if (global != module_variables.end()) {
            in.offset += static_cast<int64_t>(global->second);
            return;
        }
        for (const Variable &v : module.variables)
            if (v.name == name && v.space == Space::Shared)
                return shared_address_of(v, in);
        refuse("a variable that is not known, " + name);
    }

    void shared_address_of(const Variable &v, Inst &in) {
        if (v.unsized) {
            in.s[0] = dynamic_shared(static_cast<uint64_t>(in.offset), false);
            in.wide_address = false;
            in.offset = 0;
            return;
        }
        const auto found = shared_variables.find(v.name);
        const Place place = found != shared_variables.end() ? found->second : place_shared(v);
        shared_variables[v.name] = place;
        in.offset += static_cast<int64_t>(place.at);
    }

    Place place_shared(const Variable &v) {
        program.shared_bytes = aligned(program.shared_bytes, v.align);
        const Place place = {Space::Shared, program.shared_bytes};
        program.shared_bytes += v.bytes;
        return place;
    }

    Place place_local(const Variable &v) {
        program.local_bytes = aligned(program.local_bytes, v.align);
        const Place place = {Space::Local, program.local_bytes};
        program.local_bytes += v.bytes;
        return place;
    }

    /* ---- functions ---------------------------------------------------------------------- */

    void inline_function(const Function &f, Frame &own) {
        if (++depth > DEEPEST_CALL)
            refuse("calls too deep to be inlined");
        Frame *caller = frame;
        frame = &own;
        own.function = &f;
        own.slots.assign(f.registers.size(), NO_SLOT);
        for (const Variable &v : f.variables)
            own.variables[v.name] = v.space == Space::Shared ? place_shared(v) : place_local(v);
        for (const Statement &s : f.body)
            decode_statement(s);
        end_function();
        resolve_jumps();
        frame = caller;
        depth--;
    }

    /* An entry that runs off its end has exited. */
    void end_function() {
        const auto end = static_cast<uint32_t>(program.code.size());
        for (const size_t at : frame->returns)
            program.code[at].target = end;
        if (!frame->is_entry)
            return;
        Inst exit;
        exit.flow = Flow::Exit;
        program.code.push_back(exit);
    }

    uint32_t label_at(const Statement &s, const std::string &name) {
        for (int scope = s.scope; scope >= 0;
             scope = frame->function->scope_parent[static_cast<size_t>(scope)]) {
            const auto found = frame->labels.find({scope, name});
            if (found != frame->labels.end())
                return found->second;
        }
        statement = &s;
        refuse("a label that is not known, " + name);
    }

    void resolve_jumps() {
        for (const Frame::Jump &jump : frame->jumps)
            program.code[jump.inst].target = label_at(*jump.statement, jump.label);
        for (const Statement &s : frame->function->body)
            if (s.opcode == ".branchtargets")
                for (const Operand &o : s.operands)
                    table_of(s.label).push_back(label_at(s, o.name));
    }

    std::vector<uint32_t> &table_of(const std::string &name) {
        /* Names are a function's own; so is a table each time it is inlined. */
        const std::string key = name + "@" + std::to_string(reinterpret_cast<uintptr_t>(frame));
        const auto found = tables.find(key);
        if (found != tables.end())
            return program.tables[found->second];
        tables[key] = static_cast<uint32_t>(program.tables.size());
        program.tables.emplace_back();
        return program.tables.back();
    }

    void decode_statement(const Statement &s) {
        statement = &s;
        if (s.opcode.empty()) {
            frame->labels[{s.scope, s.label}] = static_cast<uint32_t>(program.code.size());
            return;
        }
        if (s.opcode == ".branchtargets")
            return;
        Inst in = blank();
        if (s.guard >= 0)
            in.guard = register_slot(s.guard);
        in.guard_negated = s.guard_negated;
        Opcode op(s.opcode);
        if (decode_control(op, in))
            return check_left(op);
        const bool known = decode_integer(*this, op, in) || decode_float(*this, op, in) ||
                           decode_bits(*this, op, in) || decode_compare(*this, op, in) ||
                           decode_convert(*this, op, in) || decode_move(*this, op, in) ||
                           decode_memory(*this, op, in) || decode_atomic(*this, op, in) ||
                           decode_async(*this, op, in) || decode_warp(*this, op, in) ||
                           decode_matrix(*this, op, in);
        if (!known)
            refuse("an instruction that is not known");
        check_left(op);
        if (!in.run && in.flow != Flow::Barrier)
            refuse("types that are not known");
        append(in);
    }

    void check_left(const Opcode &op) const {
        if (!op.left().empty())
            refuse("a modifier that is not known, ." + op.left());
    }

    void append(const Inst &in) {
        program.code.push_back(in);
        for (Inst &next : after) {
            next.guard = in.guard;
            next.guard_negated = in.guard_negated;
            program.code.push_back(next);
        }
        after.clear();
    }

    /* ---- control flow ------------------------------------------------------------------- */

    bool decode_control(Opcode &op, Inst &in) {
        if (op.is("bra")) {
            op.take("uni");
            in.flow = Flow::Branch;
            frame->jumps.push_back({program.code.size(), statement, operand(0).name});
            program.code.push_back(in);
        } else if (op.is("brx")) {
            decode_table_branch(op, in);
        } else if (op.is("ret") || op.is("exit")) {
            op.take("uni");
            decode_return(op, in);
        } else if (op.is("call")) {
            op.take("uni");
            decode_call(in);
        } else if (op.is("trap") || op.is("brkpt")) {
            in.run = trap;
            program.code.push_back(in);
        } else {
            return decode_hint(op);
        }
        return true;
    }

    static bool decode_hint(Opcode &op) {
        if (op.is("nanosleep"))
            return op.take("u32");
        if (!op.is("prefetch"))
            return false;
        take_access_space(op);
        return op.take("L1") || op.take("L2");
    }

    void decode_table_branch(Opcode &op, Inst &in) {
        if (!op.take("idx"))
            refuse("a branch that is not known");
        op.take("uni");
        in.flow = Flow::Table;
        in.s[0] = source(operand(0), Type::U32);
        table_of(operand(1).name);
        in.target =
            tables[operand(1).name + "@" + std::to_string(reinterpret_cast<uintptr_t>(frame))];
        program.code.push_back(in);
    }

    void decode_return(const Opcode &op, Inst &in) {
        const bool exits = frame->is_entry || op.is("exit");
        in.flow = exits ? Flow::Exit : Flow::Branch;
        if (!exits)
            frame->returns.push_back(program.code.size());
        program.code.push_back(in);
    }

    /* call (results), name, (arguments); either list may be missing. */
    void decode_call(Inst &in) {
        size_t at = 0;
        std::vector<Operand> results, arguments;
        if (operand(at).kind == Operand::Vector)
            results = operand(at++).items;
        const std::string name = operand(at++).name;
        if (at < operands() && operand(at).kind == Operand::Vector)
            arguments = operand(at++).items;
        if (at != operands())
            refuse("an indirect call");
        if (name == "__assertfail") {
            in.run = fail_assertion;
            program.code.push_back(in);
            return;
        }
        const auto found = module.functions.find(name);
        if (found == module.functions.end() || !found->second.has_body)
            refuse("a function that is not there, " + name);
        if (in.guard != NO_SLOT)
            refuse("a call under a predicate");
        const Function &callee = found->second;
        Frame own;
        bind(own, callee.returns, results);
        bind(own, callee.params, arguments);
        const Statement *here = statement;
        inline_function(callee, own);
        statement = here;
    }

    /* The callee's parameters are the variables that the caller names. */
    void bind(Frame &own, const std::vector<Variable> &formal, const std::vector<Operand> &actual) {
        if (formal.size() != actual.size())
            refuse("another number of arguments");
        for (size_t i = 0; i < formal.size(); i++) {
            const auto found = frame->variables.find(actual[i].name);
            if (found == frame->variables.end())
                refuse("an argument that is no variable");
            own.variables[formal[i].name] = found->second;
        }
    }
};

} // namespace

std::vector<Program> decode_module(const Module &module,
                                   const std::unordered_map<std::string, uint64_t> &variables) {
    const auto lines = std::make_shared<const std::vector<std::string>>(module.lines);
    std::vector<Program> programs;
    for (const auto &[name, function] : module.functions) {
        if (!function.is_entry)
            continue;
        programs.push_back(FunctionDecoder(module, variables).decode(function));
        programs.back().lines = lines;
    }
    return programs;
}

} // namespace ptx
