/* lexer.cpp - see lexer.h. */
#include "lexer.h"

#include "module.h"

#include <cctype>

namespace ptx {
namespace {

class Lexer {
  public:
    explicit Lexer(const std::string &source) : text(source) {}

    std::vector<Token> all() {
        std::vector<Token> tokens;
        while (skip_blanks())
            tokens.push_back(next());
        tokens.push_back({Token::End, "end of file", line});
        return tokens;
    }

  private:
    const std::string &text;
    size_t at = 0;
    int line = 1;

    char here(size_t ahead = 0) const {
        return at + ahead < text.size() ? text[at + ahead] : '\0';
    }

    void step() {
        if (text[at++] == '\n')
            line++;
    }

    void skip_comment() {
        const bool block = here(1) == '*';
        while (at < text.size()) {
            if (!block && here() == '\n')
                return;
            if (block && here() == '*' && here(1) == '/') {
                at += 2;
                return;
            }
            step();
        }
    }

    bool skip_blanks() {
        while (at < text.size()) {
            if (here() == '/' && (here(1) == '/' || here(1) == '*'))
                skip_comment();
            else if (isspace(static_cast<unsigned char>(here())))
                step();
            else
                return true;
        }
        return false;
    }

    bool in_word() const {
        const char c = here();
        return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
               c == '.' || (c == ':' && here(1) == ':');
    }

    Token next() {
        const int first = line;
        std::string word;
        while (in_word()) {
            if (here() == ':') /* L1::evict_last, shared::cta */
                word += text[at++];
            word += text[at++];
        }
        if (!word.empty())
            return {Token::Word, word, first};
        if (here() == '"')
            return {Token::Text, quoted(), first};
        return {Token::Mark, std::string(1, text[at++]), first};
    }

    std::string quoted() {
        std::string inside;
        for (at++; at < text.size() && here() != '"'; step())
            inside += here();
        at++;
        return inside;
    }
};

} // namespace

std::vector<Token> tokens_of(const std::string &text) {
    return Lexer(text).all();
}

} // namespace ptx
