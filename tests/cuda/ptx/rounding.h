/* rounding.h - the processor's rounding direction for as long as an instruction takes. */
#ifndef LISA_TESTS_CUDA_PTX_ROUNDING_H
#define LISA_TESTS_CUDA_PTX_ROUNDING_H

#include "program.h"

#include <cfenv>

namespace ptx {

class RoundingScope {
  public:
    explicit RoundingScope(Rounding rounding) : changed(rounding != Rounding::Nearest) {
        static constexpr int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
        if (changed)
            fesetround(modes[static_cast<int>(rounding)]);
    }
    ~RoundingScope() {
        if (changed)
            fesetround(FE_TONEAREST);
    }
    RoundingScope(const RoundingScope &) = delete;
    RoundingScope &operator=(const RoundingScope &) = delete;

  private:
    bool changed;
};

} // namespace ptx

#endif
