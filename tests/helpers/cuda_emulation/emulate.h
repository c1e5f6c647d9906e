// Runs kernels of CUDA C++ on a processor, block after block. Each CUDA thread is a fiber; a barrier goes on to the next
// fiber until all have arrived. Included before the kernel's source, with `emulate.cpp` after it.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>
#define EMULATE
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) double2 { double x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline double2 make_double2(double a, double b) { return {a, b}; }
struct Dim { int x = 0, y = 0, z = 0; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
alignas(16) static char g_dynamic[1 << 18];

namespace emulation {
struct Fiber { ucontext_t context; void* stack; Dim index; bool done; };
constexpr size_t STACK = 1 << 16;
struct Meeting { int arrived = 0; unsigned generation = 0; };
static Fiber fibers[1024];
static Meeting warps[32];
static Meeting block;
static ucontext_t scheduler;
static int current, alive, threads;
static long idle;
static double wide[32][32][16];
static unsigned long long narrow[32][32];

inline void yield() { swapcontext(&fibers[current].context, &scheduler); }
inline void meet(Meeting& m, int count) {
  const unsigned mine = m.generation;
  if (++m.arrived == count) { m.arrived = 0; ++m.generation; idle = 0; return; }
  while (m.generation == mine) yield();
}
template <class T> T exchange(T v, int from) {
  static_assert(sizeof(T) <= 8, "registers");
  const int w = current / 32, l = current % 32;
  unsigned long long bits = 0;
  memcpy(&bits, &v, sizeof(T));
  narrow[w][l] = bits;
  meet(warps[w], 32);
  bits = narrow[w][from];
  meet(warps[w], 32);
  T r;
  memcpy(&r, &bits, sizeof(T));
  return r;
}
}  // namespace emulation

inline void __syncthreads() { emulation::meet(emulation::block, emulation::threads); }
inline void __syncwarp() { emulation::meet(emulation::warps[emulation::current / 32], 32); }
template <class T> T __shfl_xor_sync(unsigned, T v, int o) { return emulation::exchange(v, (emulation::current % 32) ^ o); }
template <class T> T __shfl_sync(unsigned, T v, int lane) { return emulation::exchange(v, lane); }
inline unsigned __ballot_sync(unsigned, bool v) {
  const int w = emulation::current / 32;
  emulation::narrow[w][emulation::current % 32] = v;
  __syncwarp();
  unsigned bits = 0;
  for (int l = 0; l < 32; ++l) bits |= (unsigned)emulation::narrow[w][l] << l;
  __syncwarp();
  return bits;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline long long __double_as_longlong(double v) {
  long long bits;
  memcpy(&bits, &v, 8);
  return bits;
}
inline int __double2hiint(double v) { return (int)(__double_as_longlong(v) >> 32); }
inline int __double2loint(double v) { return (int)__double_as_longlong(v); }
inline double __hiloint2double(int high, int low) {
  const long long bits = (long long)high << 32 | (unsigned)low;
  double v;
  memcpy(&v, &bits, 8);
  return v;
}

// One m16n8k16 product: lane 4 g + t holds rows g and g + 8 of A, column g of B, and columns 2 t, 2 t + 1 of D.
inline void mma(double (&d)[4], const double* a, const double* b) {
  using namespace emulation;
  const int w = current / 32, l = current % 32, g = l / 4, t = l % 4;
  for (int i = 0; i < 8; ++i) wide[w][l][i] = a[i];
  for (int i = 0; i < 4; ++i) wide[w][l][8 + i] = b[i];
  __syncwarp();
  for (int q = 0; q < 4; ++q) {
    const int row = g + 8 * (q / 2), column = 2 * t + q % 2;
    double s = d[q];
    for (int k = 0; k < 16; ++k) s += wide[w][(row % 8) * 4 + k % 4][2 * (k / 4) + row / 8] * wide[w][column * 4 + k % 4][8 + k / 4];
    d[q] = s;
  }
  __syncwarp();
}
