/* parser.cpp - PTX text to a Module. Registers are found by scope here; symbols and labels stay
 * names. */
#include "lexer.h"
#include "module.h"

#include <cstdlib>
#include <cstring>
#include <sstream>

namespace ptx {

unsigned size_of(Type type) {
    switch (type) {
    case Type::None:
        return 0;
    case Type::Pred:
    case Type::B8:
    case Type::U8:
    case Type::S8:
        return 1;
    case Type::B16:
    case Type::U16:
    case Type::S16:
    case Type::F16:
    case Type::BF16:
        return 2;
    case Type::B64:
    case Type::U64:
    case Type::S64:
    case Type::F64:
        return 8;
    default:
        return 4;
    }
}

Type type_named(const std::string &name) {
    static const std::unordered_map<std::string, Type> types = {
        {"pred", Type::Pred},     {"b8", Type::B8},       {"u8", Type::U8},   {"s8", Type::S8},
        {"b16", Type::B16},       {"u16", Type::U16},     {"s16", Type::S16}, {"f16", Type::F16},
        {"bf16", Type::BF16},     {"b32", Type::B32},     {"u32", Type::U32}, {"s32", Type::S32},
        {"f32", Type::F32},       {"f16x2", Type::F16x2}, {"b64", Type::B64}, {"u64", Type::U64},
        {"bf16x2", Type::BF16x2}, {"s64", Type::S64},     {"f64", Type::F64},
    };
    const auto found = types.find(name);
    return found == types.end() ? Type::None : found->second;
}

namespace {

Type directive_type(const std::string &word) {
    return word.size() > 1 && word[0] == '.' ? type_named(word.substr(1)) : Type::None;
}

bool is_space(const std::string &word, Space *space) {
    static const std::unordered_map<std::string, Space> spaces = {
        {".global", Space::Global}, {".shared", Space::Shared}, {".local", Space::Local},
        {".param", Space::Param},   {".const", Space::Const},
    };
    const auto found = spaces.find(word);
    if (found == spaces.end())
        return false;
    *space = found->second;
    return true;
}

/* What a scope of a body knows by name. */
struct Scope {
    int number;
    std::unordered_map<std::string, int> registers;
    std::unordered_map<std::string, std::string> variables; /* name to unique name */
};

class Parser {
  public:
    explicit Parser(const std::string &text) : tokens(tokens_of(text)) {
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);)
            module.lines.push_back(line);
    }

    Module parse() {
        while (peek().kind != Token::End)
            top_level();
        return std::move(module);
    }

  private:
    std::vector<Token> tokens;
    size_t at = 0;
    Module module;
    Function *function = nullptr;
    std::vector<Scope> scopes;

    const Token &peek(size_t ahead = 0) const {
        return tokens[at + ahead < tokens.size() ? at + ahead : tokens.size() - 1];
    }
    bool is(const char *text, size_t ahead = 0) const {
        return peek(ahead).text == text && peek(ahead).kind != Token::Text;
    }
    bool take(const char *text) {
        if (!is(text))
            return false;
        at++;
        return true;
    }
    void expect(const char *text) {
        if (!take(text))
            fail(std::string("expected ") + text);
    }
    std::string word() {
        if (peek().kind != Token::Word)
            fail("expected a word");
        return tokens[at++].text;
    }
    [[noreturn]] void fail(const std::string &why) const {
        throw Stop("line " + std::to_string(peek().line) + ": " + why + ", found '" + peek().text +
                   "'");
    }
    void skip_line() {
        for (const int line = peek().line; peek().line == line && peek().kind != Token::End;)
            at++;
    }
    uint64_t number() {
        const bool minus = take("-");
        const std::string text = word();
        char *end = nullptr;
        uint64_t value = strtoull(text.c_str(), &end, 0);
        if (*end == 'U')
            end++;
        if (*end != '\0')
            fail("expected a number");
        return minus ? 0 - value : value;
    }

    void top_level() {
        if (is(".version") || is(".target") || is(".address_size") || is(".file") || is(".loc"))
            return skip_line();
        if (take(";"))
            return;
        if (is(".section")) {
            while (!take("}"))
                at++;
            return;
        }
        while (take(".visible") || take(".extern") || take(".weak") || take(".common"))
            ;
        Space space;
        if (is(".entry") || is(".func"))
            function_definition();
        else if (is_space(peek().text, &space))
            declare(module.variables);
        else
            fail("a directive that is not known");
    }

    /* ---- variables ------------------------------------------------------------------------- */

    void declare(std::vector<Variable> &into) {
        do
            into.push_back(variable());
        while (take(","));
        expect(";");
    }

    /* .space .align n .type name[count] = {...} */
    Variable variable() {
        Variable v;
        Type type = Type::None;
        unsigned vector = 1;
        size_t align = 0;
        while (peek().text[0] == '.') {
            const std::string directive = word();
            if (is_space(directive, &v.space))
                continue;
            if (directive == ".align")
                align = number();
            else if (directive == ".v2" || directive == ".v4")
                vector = static_cast<unsigned>(directive[2] - '0');
            else if (directive == ".ptr")
                continue;
            else if ((type = directive_type(directive)) == Type::None)
                fail("a variable's directive " + directive + " that is not known");
        }
        v.name = word();
        v.bytes = size_of(type) * vector;
        v.align = align ? align : v.bytes;
        while (take("[")) {
            if (!is("]"))
                v.bytes *= number();
            else
                v.unsized = true;
            expect("]");
        }
        if (take("="))
            initial_value(v, type);
        return v;
    }

    void initial_value(Variable &v, Type type) {
        const bool braces = take("{");
        do {
            const uint64_t bits = literal_bits();
            for (unsigned i = 0; i < size_of(type); i++)
                v.data.push_back(static_cast<uint8_t>(bits >> 8 * i));
        } while (braces && take(","));
        if (braces)
            expect("}");
        v.data.resize(v.bytes);
    }

    uint64_t literal_bits() {
        Operand o;
        if (peek().kind != Token::Word || !literal(peek().text, o))
            return number();
        at++;
        return o.value;
    }

    /* ---- functions ------------------------------------------------------------------------- */

    void function_definition() {
        Function f;
        f.is_entry = word() == ".entry";
        if (!f.is_entry && is("("))
            f.returns = parameters();
        f.name = word();
        if (is("("))
            f.params = parameters();
        attributes(f);
        if (take("{")) {
            f.has_body = true;
            function = &f;
            body();
            function = nullptr;
        } else {
            expect(";");
        }
        if (f.has_body || !module.functions.count(f.name))
            module.functions[f.name] = std::move(f);
    }

    std::vector<Variable> parameters() {
        std::vector<Variable> list;
        expect("(");
        while (!take(")")) {
            list.push_back(variable());
            take(",");
        }
        return list;
    }

    void attributes(Function &f) {
        while (peek().text[0] == '.') {
            const std::string name = word();
            if (name == ".maxntid" || name == ".reqntid") {
                f.max_threads = 1;
                do
                    f.max_threads *= static_cast<unsigned>(number());
                while (take(","));
            } else if (name == ".minnctapersm" || name == ".maxnreg") {
                number();
            } else if (name != ".noreturn" && name != ".attribute") {
                fail("a function's directive " + name + " that is not known");
            }
        }
    }

    void body() {
        open_scope();
        while (!scopes.empty())
            statement();
    }

    void open_scope() {
        const int number = static_cast<int>(function->scope_parent.size());
        function->scope_parent.push_back(scopes.empty() ? -1 : scopes.back().number);
        scopes.push_back({number, {}, {}});
    }

    void statement() {
        Space space;
        if (take("{"))
            return open_scope();
        if (take("}"))
            return scopes.pop_back();
        if (take(";"))
            return;
        if (is(".loc") || is(".file"))
            return skip_line();
        if (is(".reg"))
            return registers();
        if (take(".pragma")) {
            while (!take(";"))
                at++;
            return;
        }
        if (is_space(peek().text, &space))
            return local_variables();
        if (is(":", 1))
            return label();
        instruction({});
    }

    void registers() {
        word();
        const Type type = directive_type(word());
        if (type == Type::None)
            fail("a register's type that is not known");
        do {
            const std::string name = word();
            if (take("<")) {
                const uint64_t count = number();
                expect(">");
                for (uint64_t i = 0; i < count; i++)
                    add_register(name + std::to_string(i), type);
            } else {
                add_register(name, type);
            }
        } while (take(","));
        expect(";");
    }

    void add_register(const std::string &name, Type type) {
        scopes.back().registers[name] = static_cast<int>(function->registers.size());
        function->registers.push_back(type);
    }

    void local_variables() {
        const size_t first = function->variables.size();
        declare(function->variables);
        for (size_t i = first; i < function->variables.size(); i++) {
            Variable &v = function->variables[i];
            const std::string unique = v.name + "@" + std::to_string(scopes.back().number);
            scopes.back().variables[v.name] = unique;
            v.name = unique;
        }
    }

    void label() {
        const std::string name = word();
        expect(":");
        if (is(".branchtargets"))
            return instruction(name);
        Statement s;
        s.line = peek().line;
        s.scope = scopes.back().number;
        s.label = name;
        function->body.push_back(std::move(s));
    }

    void instruction(const std::string &label) {
        Statement s;
        s.line = peek().line;
        s.scope = scopes.back().number;
        s.label = label;
        if (take("@")) {
            s.guard_negated = take("!");
            s.guard = find_register(word());
            if (s.guard < 0)
                fail("expected a predicate");
        }
        s.opcode = word();
        while (!take(";")) {
            s.operands.push_back(operand());
            take(",");
        }
        function->body.push_back(std::move(s));
    }

    /* ---- operands -------------------------------------------------------------------------- */

    int find_register(const std::string &name) const {
        for (size_t i = scopes.size(); i-- > 0;) {
            const auto found = scopes[i].registers.find(name);
            if (found != scopes[i].registers.end())
                return found->second;
        }
        return -1;
    }

    std::string find_symbol(const std::string &name) const {
        for (size_t i = scopes.size(); i-- > 0;) {
            const auto found = scopes[i].variables.find(name);
            if (found != scopes[i].variables.end())
                return found->second;
        }
        return name;
    }

    Operand operand() {
        if (take("!")) {
            Operand o = operand();
            o.negated = true;
            return o;
        }
        if (is("{") || is("("))
            return list();
        if (is("["))
            return address();
        Operand o = simple();
        if (take("|")) {
            const Operand second = simple();
            o.second = second.reg;
        }
        return o;
    }

    Operand list() {
        Operand o;
        o.kind = Operand::Vector;
        const char *close = is("{") ? "}" : ")";
        at++;
        while (!take(close)) {
            o.items.push_back(operand());
            take(",");
        }
        return o;
    }

    Operand address() {
        Operand o;
        o.kind = Operand::Address;
        expect("[");
        o.items.push_back(simple());
        while (!take("]")) {
            if (!take("+") && !is("-"))
                fail("expected an offset");
            o.value += number();
        }
        return o;
    }

    Operand simple() {
        Operand o;
        if (is("-")) {
            o.kind = Operand::Integer;
            o.value = number();
            return o;
        }
        const std::string text = word();
        if (text == "_")
            return o;
        if (literal(text, o))
            return o;
        o.reg = find_register(text);
        o.kind = o.reg >= 0 ? Operand::Register : Operand::Name;
        o.name = o.reg >= 0 ? text : find_symbol(text);
        return o;
    }

    static bool literal(const std::string &text, Operand &o) {
        if (!isdigit(static_cast<unsigned char>(text[0])))
            return false;
        const bool bits = text[0] == '0' && text.size() > 1 && strchr("fFdD", text[1]);
        if (bits) {
            o.kind = tolower(text[1]) == 'f' ? Operand::Float32 : Operand::Float64;
            o.value = strtoull(text.c_str() + 2, nullptr, 16);
        } else if (text.find('.') != std::string::npos) {
            const double value = strtod(text.c_str(), nullptr);
            o.kind = Operand::Float64;
            memcpy(&o.value, &value, sizeof value);
        } else {
            o.kind = Operand::Integer;
            o.value = strtoull(text.c_str(), nullptr, 0);
        }
        return true;
    }
};

} // namespace

Module parse_module(const std::string &text) {
    return Parser(text).parse();
}

} // namespace ptx
