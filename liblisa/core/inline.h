/* inline.h - how headers define the functions that kernels of a GPU call too. */
#ifndef LISA_CORE_INLINE_H
#define LISA_CORE_INLINE_H

#ifdef __CUDACC__
#define LISA_INLINE static inline __host__ __device__
#else
#define LISA_INLINE static inline
#endif

#endif
