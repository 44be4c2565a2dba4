/* half.cpp - see half.h. */
#include "half.h"

#include <algorithm>
#include <cmath>

namespace ptx {
namespace {

struct Format {
    int mantissa; /* bits of it */
    int least;    /* exponent of the smallest normal number */
    uint16_t infinity;
};

constexpr Format F16_FORMAT = {10, -14, 0x7C00};
constexpr Format BF16_FORMAT = {7, -126, 0x7F80};
constexpr uint16_t CANONICAL_NAN = 0x7FFF;

double rounded(double magnitude, bool negative, Rounding rounding) {
    switch (rounding) {
    case Rounding::Nearest:
        return std::nearbyint(magnitude);
    case Rounding::Zero:
        return std::trunc(magnitude);
    case Rounding::Down:
        return negative ? std::ceil(magnitude) : std::floor(magnitude);
    default:
        return negative ? std::floor(magnitude) : std::ceil(magnitude);
    }
}

bool overflows_to_infinity(bool negative, Rounding rounding) {
    return rounding == Rounding::Nearest || rounding == (negative ? Rounding::Down : Rounding::Up);
}

uint16_t narrowed(double x, const Format &format, Rounding rounding) {
    if (std::isnan(x))
        return CANONICAL_NAN;
    const bool negative = std::signbit(x);
    const uint16_t sign = negative ? 0x8000 : 0;
    const double magnitude = std::fabs(x);
    if (std::isinf(x))
        return sign | format.infinity;
    if (magnitude == 0)
        return sign;
    const int exponent = std::max(std::ilogb(magnitude), format.least);
    const double units =
        rounded(std::scalbn(magnitude, format.mantissa - exponent), negative, rounding);
    /* The leading bit of a normal number's units adds the 1 that its exponent's field is short of,
     * and a carry out of the mantissa does the same. */
    const double bits =
        std::scalbn(static_cast<double>(exponent - format.least), format.mantissa) + units;
    if (bits < format.infinity)
        return sign | static_cast<uint16_t>(bits);
    return sign |
           (overflows_to_infinity(negative, rounding) ? format.infinity
                                                      : static_cast<uint16_t>(format.infinity - 1));
}

} // namespace

F16 to_f16(double x, Rounding rounding) {
    return {narrowed(x, F16_FORMAT, rounding)};
}

BF16 to_bf16(double x, Rounding rounding) {
    return {narrowed(x, BF16_FORMAT, rounding)};
}

} // namespace ptx
