/* lexer.h - PTX text as tokens. */
#ifndef LISA_TESTS_CUDA_PTX_LEXER_H
#define LISA_TESTS_CUDA_PTX_LEXER_H

#include <string>
#include <vector>

namespace ptx {

/* A word holds what belongs together in PTX: an opcode with its modifiers, a register, a directive,
 * a number without its sign. All else is one character. */
struct Token {
    enum Kind { Word, Text, Mark, End } kind;
    std::string text;
    int line;
};

std::vector<Token> tokens_of(const std::string &text);

} // namespace ptx

#endif
