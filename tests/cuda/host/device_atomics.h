/* device_atomics.h - atomic functions and fences under CUDA's names. One operating system thread
 * runs everything, so a plain change is atomic; it is made out of line, where the race lane does
 * not take it for an ordinary access. Each returns the old value. */
#ifndef HOSTDEVICE_DEVICE_ATOMICS_H
#define HOSTDEVICE_DEVICE_ATOMICS_H

#pragma GCC visibility push(default)

int atomicAdd(int *p, int value);
unsigned atomicAdd(unsigned *p, unsigned value);
unsigned long long atomicAdd(unsigned long long *p, unsigned long long value);
float atomicAdd(float *p, float value);
double atomicAdd(double *p, double value);
int atomicSub(int *p, int value);
unsigned atomicSub(unsigned *p, unsigned value);
int atomicMin(int *p, int value);
unsigned atomicMin(unsigned *p, unsigned value);
unsigned long long atomicMin(unsigned long long *p, unsigned long long value);
long long atomicMin(long long *p, long long value);
int atomicMax(int *p, int value);
unsigned atomicMax(unsigned *p, unsigned value);
unsigned long long atomicMax(unsigned long long *p, unsigned long long value);
long long atomicMax(long long *p, long long value);
int atomicExch(int *p, int value);
unsigned atomicExch(unsigned *p, unsigned value);
unsigned long long atomicExch(unsigned long long *p, unsigned long long value);
float atomicExch(float *p, float value);
int atomicCAS(int *p, int expected, int value);
unsigned atomicCAS(unsigned *p, unsigned expected, unsigned value);
unsigned long long atomicCAS(unsigned long long *p, unsigned long long expected,
                             unsigned long long value);
unsigned short atomicCAS(unsigned short *p, unsigned short expected, unsigned short value);
int atomicAnd(int *p, int value);
unsigned atomicAnd(unsigned *p, unsigned value);
unsigned long long atomicAnd(unsigned long long *p, unsigned long long value);
int atomicOr(int *p, int value);
unsigned atomicOr(unsigned *p, unsigned value);
unsigned long long atomicOr(unsigned long long *p, unsigned long long value);
int atomicXor(int *p, int value);
unsigned atomicXor(unsigned *p, unsigned value);
unsigned long long atomicXor(unsigned long long *p, unsigned long long value);
unsigned atomicInc(unsigned *p, unsigned limit);
unsigned atomicDec(unsigned *p, unsigned limit);

#pragma GCC visibility pop

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

#endif
